"""Connect to a Ray cluster, and keep its devices busy."""

import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from worlds.runtime.errors import first_line

DEATHS = 5  # of actors on one item, after which the item is to blame
_POLL_SECONDS = 0.5


@contextmanager
def connect(address: str) -> Iterator[Any]:
    """Yield the ray module, connected to the cluster at `address` (auto, HOST:PORT)."""
    try:
        import ray
    except ImportError as error:
        raise ValueError("ray: Ray is not installed: pip install 'deep-bootstrap[ray]'") from error
    # Find out at once if nothing answers, then connect.
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
    """Raise OSError if nothing listens at HOST:PORT, which Ray itself takes minutes to say."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


class ActorPool:
    """Actors, one a GPU of the cluster or else a CPU, each with at most one item; actors are added
    where nodes join, and one that dies with its node gives its item back.

    An actor keeps its process, and so what it has loaded; Ray ends a GPU task's with the task. A
    subclass says how an actor starts and takes an item (with a `name`), and what each end means.
    """

    def __init__(self, ray: Any, most: int | None = None) -> None:
        self.ray, self._most = ray, most
        self.queue: deque[Any] = deque()
        self.running: dict[Any, tuple[Any, Any]] = {}  # task: its actor and item
        self._idle: list[Any] = []
        self._deaths: Counter[str] = Counter()

    def start(self, share: dict[str, int], device: str) -> Any:
        """Return a new actor with that share of a node."""
        raise NotImplementedError

    def submit(self, actor: Any, item: Any) -> Any:
        """Return the task of an actor on an item."""
        raise NotImplementedError

    def done(self, item: Any, value: Any) -> None:
        """Note what a task returned."""

    def failed(self, item: Any, error: Exception) -> None:
        """Note what an item's own code raised, or that it ended too many actors."""
        raise NotImplementedError

    def died(self, error: Exception) -> None:
        """Note that an actor died; may raise."""

    def step(self) -> None:
        """Start actors where there is room, give each idle one an item, wait for one to end."""
        # Start no more actors than there are devices and items.
        room = self._room() - len(self.running) - len(self._idle)
        for _ in range(min(room, len(self.queue) - len(self._idle))):
            gpu = self.ray.cluster_resources().get("GPU", 0) > 0
            share = {"num_gpus": 1} if gpu else {"num_cpus": 1}
            self._idle.append(self.start(share, "cuda:0" if gpu else "cpu"))
        # Give each idle actor an item.
        while self._idle and self.queue:
            actor, item = self._idle.pop(), self.queue.popleft()
            self.running[self.submit(actor, item)] = actor, item
        # The others have nothing to do: an actor that still waits for a place may have theirs.
        while self._idle:
            self.ray.kill(self._idle.pop())
        if not self.running:
            time.sleep(_POLL_SECONDS)  # until a node joins
            return
        ended, _ = self.ray.wait(list(self.running), timeout=_POLL_SECONDS)
        for task in ended:
            self._end(task)

    def close(self) -> None:
        """End all actors."""
        for actor in [*self._idle, *(actor for actor, _ in self.running.values())]:
            self.ray.kill(actor)

    def _end(self, task: Any) -> None:
        # Tell apart: the item's own error, a dead actor, a node out of reach.
        actor, item = self.running.pop(task)
        errors = self.ray.exceptions
        try:
            value = self.ray.get(task)
        except errors.RayTaskError as error:  # what the item's own code raised
            self._idle.append(actor)
            self.failed(item, error.cause or error)
        except errors.ActorDiedError as error:
            self._give_back(item, error)
        except (errors.RayActorError, errors.RaySystemError, errors.ObjectLostError) as error:
            self.ray.kill(actor)  # its node does not answer: should it come back, it is too late
            self._give_back(item, error)
        else:
            self._idle.append(actor)
            self.done(item, value)

    def _give_back(self, item: Any, error: Exception) -> None:
        """Queue the item of a dead actor again, unless it has taken many with it."""
        self.died(error)
        self._deaths[item.name] += 1
        if self._deaths[item.name] < DEATHS:
            self.queue.appendleft(item)
            return
        text = f"{item.name} ended {DEATHS} workers, the last with: {first_line(error)}"
        self.failed(item, RuntimeError(text))

    def _room(self) -> int:
        """Return how many actors the cluster has room for now: one a GPU, else one a CPU."""
        # Nodes may have joined or left since the last look.
        resources = self.ray.cluster_resources()
        slots = int(resources.get("GPU", 0) or resources.get("CPU", 0))
        return slots if self._most is None else min(slots, self._most)
