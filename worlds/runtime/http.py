"""HTTP answers that pass by themselves, and how long a server asks its clients to wait."""

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Final

RETRIED: Final = frozenset({408, 416, 425, 429, 500, 502, 503, 504})  # states that may pass
_RATE_LIMITED: Final = 429
_RESET: Final = re.compile(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d+)")


def asked_wait(headers: Mapping[str, str]) -> float:
    """Return the seconds that an answer's headers ask to wait, 0 if they do not.

    Read from `RateLimit: "api";r=0;t=55` (nothing remains, reset in 55 s) and from Retry-After, as
    seconds or as a date; the longer one counts.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    waits = [float(seconds) for seconds in _RESET.findall(lower.get("ratelimit", ""))]
    after = lower.get("retry-after", "").strip()
    if after.isdigit():
        waits.append(float(after))
    elif after:
        with suppress(ValueError):
            waits.append(parsedate_to_datetime(after).timestamp() - time.time())
    return max(0.0, *waits, 0.0)


def describe_status(status: int, reason: str = "") -> str:
    """Return `HTTP 503 Service Unavailable`; a rate limit is called by its name."""
    limit = "rate limit reached, " if status == _RATE_LIMITED else ""
    return f"{limit}HTTP {status} {reason}".rstrip()
