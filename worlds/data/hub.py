"""Addresses of datasets on the Hugging Face Hub, and its failures in one line each."""

import re
import time
import warnings
from collections.abc import Callable
from typing import Any, Final, TypeVar

from worlds.runtime.http import RETRIED, asked_wait, describe_status

Result = TypeVar("Result")

HUB: Final = "hf://datasets/"
_ATTEMPTS: Final = 5
_LONGEST_WAIT: Final = 300.0  # seconds; the Hub counts requests in windows of five minutes


def parse_hub_address(address: str) -> tuple[str, str | None]:
    """Return (OWNER/NAME, revision or None) of hf://datasets/OWNER/NAME[@REVISION]."""
    name, _, revision = address.removeprefix(HUB).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"expected {HUB}OWNER/NAME[@REVISION], got {address}")
    return name, revision or None


def ask_hub(address: str, call: Callable[[], Result]) -> Result:
    """Return what a call of the Hub's client returns, repeated while the Hub is busy.

    Waits as long as the Hub asks, with one warning each time. Raises ValueError if the address is
    wrong or not the user's to read, OSError if the Hub stays busy; both are one line. That a
    repository lacks a file is left as it is.
    """
    from huggingface_hub.errors import (
        HTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
    )

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return call()
        except RemoteEntryNotFoundError:
            raise
        except OfflineModeIsEnabled as error:
            raise ValueError(f"{address}: HF_HUB_OFFLINE is set: unset it to read it") from error
        except (HTTPError, LocalEntryNotFoundError) as error:
            failure, cause = _explain(address, error), error
        if isinstance(failure, ValueError) or attempt == _ATTEMPTS:
            raise failure from cause
        answer = _answer_behind(cause)
        wait = min(max(asked_wait(answer.headers), 2.0**attempt), _LONGEST_WAIT)
        warnings.warn(f"{failure}; again in {wait:.0f} s", stacklevel=2)
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _explain(address: str, error: Exception) -> Exception:
    """Return one line for an error of the client; OSError if another attempt may work."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        return ValueError(
            f"{address} is not on the Hub, or is private: check the name, or run `hf auth login`"
        )
    answer = _answer_behind(error)
    if answer is None:
        return ValueError(f"{address} is not in the cache, and the Hub is out of reach")
    reason = describe_status(answer.status_code, answer.reason_phrase)
    if answer.status_code in (401, 403):
        return ValueError(f"{address}: {reason}: run `hf auth login` with a token that may read it")
    return (OSError if answer.status_code in RETRIED else ValueError)(f"{address}: {reason}")


def _answer_behind(error: BaseException) -> Any:
    """Return the Hub's answer behind an error of its client, None if there was no answer."""
    cause: BaseException | None = error
    while cause is not None:
        if (answer := getattr(cause, "response", None)) is not None:
            return answer
        cause = cause.__cause__ or cause.__context__
    return None
