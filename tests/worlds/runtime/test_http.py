"""How long a server asks its clients to wait."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from worlds.runtime.http import asked_wait, describe_status


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({}, 0),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"ratelimit": '"api";r=17;t=55'}, 0),  # requests remain
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "7", "RateLimit": '"api";r=0;t=55'}, 55),
        ({"Retry-After": "soon"}, 0),
        ({"RateLimit": "nonsense"}, 0),
    ],
)
def test_the_longest_wait_that_the_headers_ask_for_counts(headers, seconds):
    assert asked_wait(headers) == seconds


def test_a_date_is_a_wait_until_then_and_a_past_one_none():
    now = datetime.now(UTC)
    later, before = (format_datetime(now + timedelta(seconds=s), usegmt=True) for s in (90, -90))
    assert 80 < asked_wait({"Retry-After": later}) <= 90
    assert asked_wait({"Retry-After": before}) == 0


def test_a_rate_limit_is_called_by_its_name():
    assert describe_status(429, "Too Many Requests").startswith("rate limit reached, HTTP 429")
    assert describe_status(503, "Service Unavailable") == "HTTP 503 Service Unavailable"
