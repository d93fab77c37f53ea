"""Connect to a Ray cluster."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from worlds.runtime.errors import first_line

DEATHS = 5  # of actors on one shard, after which the shard is to blame


@contextmanager
def connect(address: str) -> Iterator[Any]:
    """The ray module, connected to the cluster at `address` (auto, HOST:PORT) while inside."""
    try:
        import ray
    except ImportError as error:
        raise ValueError("ray: Ray is not installed: pip install 'deep-bootstrap[ray]'") from error
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _reach(address)
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ValueError(
            f"ray={address}: no cluster answers ({first_line(error)}); start one with "
            "`ray start --head`, and `ray start --address HOST:PORT` on the other nodes"
        ) from error
    if signal.getsignal(signal.SIGTERM) is not on_sigterm:
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would end the process at once
    try:
        yield ray
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """OSError where nothing listens at HOST:PORT, which Ray itself takes minutes to say."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
