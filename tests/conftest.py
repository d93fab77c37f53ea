"""What tests of several packages share: one thread a process, and a Ray cluster.

On small tensors two torch threads wait for each other most of the time; on two busy cores that made
tests three to ten times slower.
"""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported


@pytest.fixture
def cluster(monkeypatch):
    """A head without CPUs and two nodes of one each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    small = {"object_store_memory": 100 << 20}
    found = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False} | small
    )
    nodes = [found.add_node(num_cpus=1, **small) for _ in range(2)]
    yield found, nodes
    found.shutdown()
