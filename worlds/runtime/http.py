"""HTTP for long work: how long a server asks to wait, and transfers that survive cuts."""

import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import httpx2

RETRIED: Final = frozenset({408, 416, 425, 429, 500, 502, 503, 504})  # states that may pass
LONGEST_WAIT: Final = 300.0  # seconds, also if a server asks for more
TIMEOUT: Final = 30.0  # seconds without a byte
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


@dataclass
class Retries:
    """Attempts in a row that failed, and how long to wait after each."""

    most: int
    first_wait: float  # seconds, doubled at each failure
    failed: int = 0

    def next_wait(self, asked: float = 0.0, progressed: bool = False) -> float | None:
        """Count a failure, from anew if it `progressed`; return the seconds to wait, at least those
        that the server asks for, or None after the last attempt.
        """
        self.failed = 0 if progressed else self.failed + 1
        if self.failed >= self.most:
            return None
        return min(max(asked, self.first_wait * 2**self.failed), LONGEST_WAIT)


class TransferError(OSError):
    """A server does not send a file; the message is one line. Another attempt may work after `wait`
    seconds, None: none will.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Transfer:
    """The file at a URL, over as many answers as it takes; a cut is resumed where it was.

        transfer = Transfer("https://example.org/model.ckpt")
        for offset, block in transfer.blocks():
            ...  # offset is 0 again if the server cannot resume, or has another version by now

    A transfer that another process began goes on at `position`, if the server has the file in the
    same `version` (its ETag, or the time of change).
    """

    def __init__(
        self,
        url: str,
        *,
        position: int = 0,
        version: str = "",
        headers: Mapping[str, str] | None = None,
        retries: Retries | None = None,
        timeout: float = TIMEOUT,
        offline_is_final: bool = False,  # a name that does not resolve is not tried again
        on_note: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.url, self.position, self.version = url, position, version
        self.total: int | None = None  # bytes, once the server says it
        self._headers = {"User-Agent": "deep-bootstrap", "Accept-Encoding": "identity"}
        self._headers |= headers or {}
        self._retries = retries or Retries(6, 0.5)
        self._timeout, self._offline_is_final, self._note = timeout, offline_is_final, on_note

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Yield the bytes as they come, each block with its offset in the file.

        Raises TransferError if the server refuses, or several attempts in a row brought nothing.
        """
        import httpx2

        furthest = self.position
        options: dict[str, Any] = {"timeout": self._timeout, "follow_redirects": True}
        with httpx2.Client(headers=self._headers, **options) as client:
            while True:
                try:
                    yield from self._request(client)
                    return
                except TransferError as failure:
                    if failure.wait is None:
                        raise
                    wait = self._retries.next_wait(failure.wait, self.position > furthest)
                    furthest = max(furthest, self.position)
                    reason = f"{failure} at byte {self.position:,}"
                if wait is None:
                    raise TransferError(f"{reason}, {self._retries.most} attempts in a row")
                self._note(f"{reason}; again in {wait:.1f} s")
                time.sleep(wait)

    def _request(self, client: "httpx2.Client") -> Iterator[tuple[int, bytes]]:
        """Ask for what has not come yet, and yield it."""
        import httpx2

        headers = {"Range": f"bytes={self.position}-"} if self.position else {}
        if self.position and self.version:
            headers["If-Range"] = self.version
        try:
            with client.stream("GET", self.url, headers=headers) as response:
                for block in response.iter_raw() if self._accept(response) else ():
                    offset = self.position
                    self.position += len(block)
                    yield offset, block
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            unknown = isinstance(_root(error), socket.gaierror)
            reason = "the name cannot be resolved" if unknown else "no connection"
            is_final = unknown and self._offline_is_final
            raise TransferError(f"{reason} ({error})", None if is_final else 0) from None
        except httpx2.TransportError as error:
            raise TransferError(f"connection cut ({type(error).__name__})", 0) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise TransferError(str(error)) from None
        if self.position < (self.total or 0):
            raise TransferError(f"connection cut before byte {self.total:,}", 0)

    def _accept(self, response: "httpx2.Response") -> bool:
        """Check the head of an answer; False if nothing is left to come."""
        status, head = response.status_code, response.headers
        if status == 416 and head.get("Content-Range") == f"bytes */{self.position}":
            return False
        if status not in (200, 206):
            if status == 416:  # what came before is not the start of this file
                self.position = 0
            reason = describe_status(status, response.reason_phrase)
            raise TransferError(reason, asked_wait(head) if status in RETRIED else None)
        if head.get("Content-Type", "").startswith("text/html"):
            raise TransferError("the server sent a web page, not the file")
        # Which bytes come, and of how many.
        content = f"bytes 0-/{head.get('Content-Length', '*')}"
        if status == 206:
            content = head.get("Content-Range", f"bytes {self.position}-/{self.total or '*'}")
        span = re.fullmatch(r"bytes (\d+)-\d*/(\d+|\*)", content)
        start, total = (int(span[1]), span[2]) if span else (-1, "*")
        if start not in (0, self.position):
            raise TransferError(f"asked from byte {self.position}, the server sent from {start}")
        # Of which version of the file; a part of another one is of no use.
        etag = head.get("ETag", "W/")
        version = head.get("Last-Modified", "") if etag.startswith("W/") else etag
        if start and self.version not in ("", version):
            self.position, self.version = 0, ""
            raise TransferError("the file has changed on the server", 0)
        if self.position and not start:
            self._note("the server cannot resume; starting over")
        self.position, self.version = start, version
        self.total = None if total == "*" else int(total)
        return True


def _root(error: BaseException) -> BaseException:
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error
