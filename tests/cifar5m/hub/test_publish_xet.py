"""cifar5m-publish by the Hub's own transport, hf_xet, which is used wherever it is installed.

Each run is a process of its own: hf_xet keeps its session and caches for as long as one lives.
"""

import pytest

from tests.cifar5m.loopback_hub import Fault, hub_server, published, start_publishing
from tests.cifar5m.small_set import contents
from tests.processes import Forked

pytest.importorskip("hf_xet")


@pytest.fixture
def hub():
    with hub_server() as server:
        yield server


def start(folder, hub, home, *options) -> Forked:
    return start_publishing(folder, hub, home, *options, xet=True)


def finish(process) -> tuple[int, str, str]:
    return process.wait(60), process.out, process.error


@pytest.mark.parametrize("options", [[], ["--parquet"]], ids=["tars", "parquet"])
def test_the_repository_is_the_folder(options, folder, hub, tmp_path):
    code, _, err = finish(start(folder, hub, tmp_path / "home", *options))
    assert code == 0, err
    assert published(hub) == contents(folder)
    assert any("/cas/v1/xorbs/" in path for _, path in hub.seen)
    assert not any(path.startswith("/lfs/") for _, path in hub.seen)
    assert finish(start(folder, hub, tmp_path / "home", *options))[1].startswith("0 files sent")


XORBS, SHARDS = "/xorbs/default/", "/v1/shards"
FAULTS = {
    "503 on the token, then on xorbs, then on a shard": [
        Fault("GET", "/xet-write-token/", 503),
        Fault("POST", XORBS, 503, times=3),
        Fault("POST", SHARDS, 503, times=2),
    ],
    "429 on a xorb, and one whose answer is lost": [
        Fault("POST", XORBS, 429, headers={"Retry-After": "0"}),
        Fault("POST", XORBS, kind="lost"),
    ],
    "a xorb that is cut, and a shard": [
        Fault("POST", XORBS, kind="cut", times=2),
        Fault("POST", SHARDS, kind="cut"),
    ],
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_passes_is_waited_for(name, folder, hub, tmp_path):
    hub.faults += FAULTS[name]
    code, _, err = finish(start(folder, hub, tmp_path / "home"))
    assert code == 0, err
    assert [fault.times for fault in FAULTS[name]] == [0] * len(FAULTS[name]), "a fault was not met"
    assert published(hub) == contents(folder)


def test_a_storage_that_stays_away_is_one_line_and_a_later_run_goes_on(folder, hub, tmp_path):
    fault = Fault("POST", "/xorbs/default/", 503, times=1000)
    hub.faults.append(fault)
    code, _, err = finish(start(folder, hub, tmp_path / "home"))
    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith("cifar5m-publish: the Hub cannot be reached (")
    assert "run the same command again" in last
    fault.times = 0
    assert finish(start(folder, hub, tmp_path / "home"))[0] == 0
    assert published(hub) == contents(folder)


def test_two_kills_later_all_is_there(folder, hub, tmp_path):
    in_a_xorb = Fault("POST", "/xorbs/default/", kind="hold")
    in_a_shard = Fault("POST", "/v1/shards", kind="hold")
    hub.faults += [in_a_xorb, in_a_shard]
    for fault in (in_a_xorb, in_a_shard):
        process = start(folder, hub, tmp_path / "home")
        assert fault.reached.wait(60)
        process.kill()
        process.wait()
        fault.release.set()
    assert hub.repos["me/set"].messages == ["initial commit"]
    assert finish(start(folder, hub, tmp_path / "home"))[0] == 0
    assert published(hub) == contents(folder)
