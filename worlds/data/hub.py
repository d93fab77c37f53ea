"""Addresses of datasets on the Hugging Face Hub, and its failures in one line each."""

import re
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

from worlds.runtime.http import RETRIED, Retries, asked_wait, describe_status

Result = TypeVar("Result")

HUB: Final = "hf://datasets/"


class HubBusyError(OSError):
    """The Hub stayed busy, or out of reach, at every attempt."""


def parse_hub_address(address: str) -> tuple[str, str | None]:
    """Return (OWNER/NAME, revision or None) of hf://datasets/OWNER/NAME[@REVISION]."""
    name, _, revision = address.removeprefix(HUB).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"expected {HUB}OWNER/NAME[@REVISION], got {address}")
    return name, revision or None


def patiently(
    call: Callable[[], Result],
    judge: Callable[[Exception], tuple[str, float]],
    pause: Callable[[str, float], None],
) -> Result:
    """Return what a call of the Hub's client returns, repeated while it fails in ways that pass.

    `judge` raises what will not pass, and returns of other errors a line and the seconds that the
    Hub asks to wait; `pause` gets the line and waits. In the end raises HubBusyError with the line.
    """
    retries = Retries(5, 1.0)
    while True:
        try:
            return call()
        except Exception as error:
            reason, asked = judge(error)
            wait = retries.next_wait(asked)
            if wait is None:
                raise HubBusyError(reason) from error
        pause(f"{reason}; again in {wait:.0f} s", wait)


def ask_hub(address: str, call: Callable[[], Result]) -> Result:
    """Return what a call of the Hub's client returns, repeated while the Hub is busy.

    Waits as long as the Hub asks, with one warning each time. Raises ValueError if the address is
    wrong or not the user's to read, OSError if the Hub stays busy; both are one line. That a
    repository lacks a file is left as it is.
    """

    def pause(line: str, seconds: float) -> None:
        warnings.warn(line, stacklevel=4)
        time.sleep(seconds)

    return patiently(call, partial(_judge, address), pause)


def _judge(address: str, error: Exception) -> tuple[str, float]:
    """Return one line for a failure that may pass, and the seconds that the Hub asks to wait."""
    from huggingface_hub.errors import (
        HTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, OfflineModeIsEnabled):
        raise ValueError(f"{address}: HF_HUB_OFFLINE is set: unset it to read it") from error
    of_the_hub = isinstance(error, HTTPError | LocalEntryNotFoundError)
    if isinstance(error, RemoteEntryNotFoundError) or not of_the_hub:
        raise error
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        raise ValueError(
            f"{address} is not on the Hub, or is private: check the name, or run `hf auth login`"
        ) from error
    # What the Hub answered, if it did.
    answer = _answer_behind(error)
    if answer is None:
        raise ValueError(f"{address} is not in the cache, and the Hub is out of reach") from error
    reason = f"{address}: {describe_status(answer.status_code, answer.reason_phrase)}"
    if answer.status_code in (401, 403):
        raise ValueError(f"{reason}: run `hf auth login` with a token that may read it") from error
    if answer.status_code not in RETRIED:
        raise ValueError(reason) from error
    return reason, asked_wait(answer.headers)


def _answer_behind(error: BaseException) -> Any:
    """Return the Hub's answer behind an error of its client, None if there was no answer."""
    cause: BaseException | None = error
    while cause is not None:
        if (answer := getattr(cause, "response", None)) is not None:
            return answer
        cause = cause.__cause__ or cause.__context__
    return None
