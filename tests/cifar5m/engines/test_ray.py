"""A run on a Ray cluster ends in a single process's bytes, also where a node is killed.

Each test with a cluster starts real nodes, which takes half a minute: `make test-slow` runs them
where Ray is installed.
"""

import sys
import threading
import time

import pytest
from msgspec.structs import replace

from cifar5m.commands.generate import main
from cifar5m.commands.verify import main as verify
from cifar5m.engines.ray import ShardMaker, generate_on_ray
from worlds.formats.dataset import DatasetFolder
from worlds.formats.plan import load_plan
from worlds.formats.shards import find_record
from worlds.runtime.progress import Phase
from worlds.runtime.ray import connect


def finished(folder) -> dict[str, str]:
    """sha256 of each shard that exists."""
    if not (folder / "plan.json").exists():
        return {}
    shards = load_plan(folder).shards
    records = {shard.name: find_record(folder, shard) for shard in shards}
    return {name: record.sha256 for name, record in records.items() if record}


def test_without_ray_the_line_names_the_extra(small_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["--n", "6", "--out", str(tmp_path / "set"), *small_run, "--ray", "auto"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "Ray is not installed: pip install 'deep-bootstrap[ray]'" in line


@pytest.mark.parametrize("run", ["small_run", "conditional_run"])
def test_an_actor_makes_the_bytes_of_the_command(run, request, tmp_path):
    from cifar5m.sampling.job import GeneratedPlan, options_of

    small_run = request.getfixturevalue(run)
    assert main(["--n", "12", "--out", str(tmp_path / "one"), *small_run]) == 0
    plan = load_plan(tmp_path / "one", GeneratedPlan)
    (tmp_path / "two").mkdir()
    (tmp_path / "two/plan.json").write_bytes((tmp_path / "one/plan.json").read_bytes())
    maker = ShardMaker(str(tmp_path / "two"), options_of(plan), plan, "cpu")
    for shard in plan.shards:
        maker.make(shard)
    assert finished(tmp_path / "two") == finished(tmp_path / "one")


def test_a_node_that_would_make_another_set_refuses(small_run, tmp_path):
    from cifar5m.sampling.job import GeneratedPlan, options_of

    assert main(["--n", "6", "--out", str(tmp_path / "set"), *small_run]) == 0
    plan = load_plan(tmp_path / "set", GeneratedPlan)
    other = replace(plan, versions=plan.versions | {"torch": "1.0"}, fingerprint="0")
    with pytest.raises(ValueError, match=r"another set, differing: versions\.torch is"):
        ShardMaker(str(tmp_path / "set"), options_of(plan), other, "cpu")
    with pytest.raises(ValueError, match="shared storage"):
        ShardMaker(str(tmp_path / "elsewhere"), options_of(plan), plan, "cpu")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray leaves sockets and files to the garbage collector
@pytest.mark.parametrize("run", ["small_run", "conditional_run"])
def test_a_killed_node_costs_nothing_but_time(run, cluster, request, tmp_path):
    found, nodes = cluster
    slower = [*request.getfixturevalue(run), "--steps", "20", "--split", "train=120"]
    assert main(["--n", "120", "--out", str(tmp_path / "one"), *slower]) == 0
    folder, kept = tmp_path / "two", {}

    def kill_a_node_after_five_shards():
        deadline = time.monotonic() + 240
        while len(finished(folder)) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        kept.update(finished(folder))
        found.remove_node(nodes[0], allow_graceful=False)

    killer = threading.Thread(target=kill_a_node_after_five_shards)
    killer.start()
    code = main(["--n", "120", "--out", str(folder), *slower, "--ray", found.address])
    killer.join()
    assert code == 0
    assert 5 <= len(kept) < 20  # it was killed in the middle
    assert finished(folder) == finished(tmp_path / "one")
    assert verify(["--json", str(folder)]) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_a_node_refuses_is_told_in_its_own_words(cluster, small_run, tmp_path):
    from cifar5m.sampling.job import GeneratedPlan, options_of

    found, _ = cluster
    assert main(["--n", "6", "--out", str(tmp_path / "set"), *small_run]) == 0
    plan = load_plan(tmp_path / "set", GeneratedPlan)
    options = options_of(plan)
    other = replace(plan, versions=plan.versions | {"torch": "1.0"}, fingerprint="0")
    dataset, phase = DatasetFolder(tmp_path / "set", other), Phase("generate", None, None)
    with (
        connect(found.address) as ray,
        pytest.raises(ValueError, match=r"would make another set, differing: versions\.torch"),
    ):
        generate_on_ray(ray, dataset, options, phase)


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_does_not_answer_is_one_line(small_run, tmp_path, capsys):
    pytest.importorskip("ray")
    arguments = ["--n", "6", "--out", str(tmp_path / "set"), *small_run, "--ray", "127.0.0.1:1"]
    assert main(arguments) == 2
    assert "--ray 127.0.0.1:1: no cluster answers" in capsys.readouterr().err.splitlines()[-1]
