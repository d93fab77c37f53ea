"""Whom the pool of actors gives what, on a stand-in for a cluster that runs each task when it is
waited for.
"""

from collections import Counter
from dataclasses import dataclass

import pytest

from worlds.runtime.ray import DEATHS, ActorPool


@dataclass(frozen=True)
class Item:
    name: str


class Errors:
    class RayTaskError(Exception):
        cause = ValueError("the item's own fault")

    class RayActorError(Exception):
        pass

    class ActorDiedError(RayActorError):
        pass

    class RaySystemError(Exception):
        pass

    class ObjectLostError(Exception):
        pass


class Cluster:
    exceptions = Errors

    def __init__(self, **resources):
        self.resources, self.killed = resources, []

    def cluster_resources(self):
        return self.resources

    def wait(self, tasks, timeout):
        return tasks[:1], tasks[1:]

    def get(self, task):
        return task()

    def kill(self, actor):
        self.killed.append(actor)


class Pool(ActorPool):
    """Actors are numbers; a task is a function; `deaths` items end their actor so many times."""

    def __init__(self, ray, deaths=(), faults=()):
        super().__init__(ray)
        self.left, self.faults = Counter(deaths), faults
        self.started, self.ends, self.by = [], {}, {}

    def start(self, share, device):
        self.started.append((share, device))
        return len(self.started)

    def submit(self, actor, item):
        def task():
            self.by.setdefault(actor, []).append(item.name)
            if self.left[item.name]:
                self.left[item.name] -= 1
                raise Errors.ActorDiedError("its node is gone")
            if item.name in self.faults:
                raise Errors.RayTaskError
            return actor

        return task

    def done(self, item, value):
        self.ends[item.name] = value

    def failed(self, item, error):
        self.ends[item.name] = str(error)


def run(pool, names):
    pool.queue.extend(map(Item, names))
    while pool.queue or pool.running:
        pool.step()
    return pool


def test_an_actor_keeps_its_gpu_from_one_item_to_the_next():
    pool = run(Pool(Cluster(GPU=2.0, CPU=16.0)), "abcdefg")
    assert pool.started == [({"num_gpus": 1}, "cuda:0")] * 2
    assert set(pool.ends) == set("abcdefg")
    assert sum(map(len, pool.by.values())) == 7
    assert run(Pool(Cluster(CPU=3.0)), "ab").started == [({"num_cpus": 1}, "cpu")] * 2


def test_an_item_whose_actor_died_goes_to_another_and_one_that_ends_many_fails():
    pool = run(Pool(Cluster(GPU=1.0), deaths={"a": 2, "b": 99}), "abc")
    assert {name: type(end) for name, end in pool.ends.items()} == {"a": int, "b": str, "c": int}
    assert pool.ends["b"] == f"b ended {DEATHS} workers, the last with: its node is gone"
    assert len(pool.started) == 1 + 2 + DEATHS


def test_an_item_that_raises_leaves_its_actor_to_the_others():
    pool = run(Pool(Cluster(GPU=1.0), faults=("a",)), "ab")
    assert pool.ends == {"a": "the item's own fault", "b": 1}


def test_idle_actors_leave_their_place_and_joining_nodes_are_used():
    cluster = Cluster(GPU=1.0)
    pool = Pool(cluster)
    pool.queue.extend(map(Item, "abc"))
    pool.step()
    cluster.resources["GPU"] = 2.0
    run(pool, "")
    assert len(pool.started) == 2
    pool.close()
    pool = Pool(cluster)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worlds.runtime.ray.time.sleep", lambda seconds: None)
        pool._idle.append(7)
        pool.step()
    assert 7 in cluster.killed
