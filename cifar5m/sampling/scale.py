"""A run on many devices, computed on paper: time, cost, and what failures lose.

    cifar5m-generate --n 6000000 --out cifar5m --dry-run --rate 27 --price 4

Shards are made whole by one device each, so the last round may leave devices idle; a device that
fails loses the shard it was making, half of one on average.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from worlds.cli.tables import columns

FLEETS = (1, 8, 64)
HOURS_BETWEEN_FAILURES = 100.0  # of one device, assumed; preemptible ones fail more often


@dataclass(frozen=True)
class Fleet:
    """A run of `shards` shards of `shard_hours` each on `devices` devices."""

    devices: int
    shards: int
    shard_hours: float

    @property
    def rounds(self) -> int:
        """Shards that the busiest device makes."""
        return math.ceil(self.shards / self.devices)

    @property
    def hours(self) -> float:
        """From start to end, without failures."""
        return self.rounds * self.shard_hours

    @property
    def device_hours(self) -> float:
        """Hours to pay for: every device until the last one ends."""
        return self.hours * self.devices

    @property
    def failures(self) -> float:
        """To be expected, at one in HOURS_BETWEEN_FAILURES of each device."""
        return self.device_hours / HOURS_BETWEEN_FAILURES

    @property
    def lost_hours(self) -> float:
        """Device hours of work that those failures undo."""
        return self.failures * self.shard_hours / 2


def table(shards: int, shard_hours: float, price: float | None) -> Iterator[str]:
    """Lines for 1, 8 and 64 devices; `price` is of a device hour."""
    rows = [("devices", "hours", "device hours", "failures", "hours lost", "cost")]
    for devices in FLEETS:
        fleet = Fleet(devices, shards, shard_hours)
        cost = "-" if price is None else f"{price * (fleet.device_hours + fleet.lost_hours):,.0f}"
        hours = f"{fleet.hours:,.2f}", f"{fleet.device_hours:,.1f}"
        rows.append(
            (str(devices), *hours, f"{fleet.failures:,.1f}", f"{fleet.lost_hours:,.2f}", cost)
        )
    yield from columns(rows, left=()).splitlines()
    yield (
        f"one shard takes {60 * shard_hours:,.1f} minutes, which is the most that a failure loses; "
        f"failures: one in {HOURS_BETWEEN_FAILURES:g} hours of each device, assumed"
    )
