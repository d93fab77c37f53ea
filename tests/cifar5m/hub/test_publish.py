"""cifar5m-publish with the real client of the Hub against a Hub on loopback that fails at will."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cifar5m.commands.label import main as label
from cifar5m.commands.publish import main
from cifar5m.commands.verify import main as verify
from cifar5m.hub.publish import File, Hub, batches
from tests.cifar5m.loopback_hub import (
    TOKEN,
    Fault,
    Repo,
    hub_of_this_process,
    hub_server,
    published,
    start_publishing,
)
from tests.cifar5m.small_set import contents, make_set, rewrite, shards_of
from worlds.formats.plan import load_plan
from worlds.runtime.files import write_json
from worlds.runtime.progress import Phase
from worlds.runtime.signals import Stopped

# huggingface_hub's own way of sending files.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture
def hub(tmp_path):
    with hub_of_this_process(tmp_path) as server:
        yield server


def run(folder, *options) -> int:
    return main([str(folder), "--repo", "me/set", "--workers", "1", "--quiet", *options])


def test_the_repository_is_the_folder_and_the_card_came_last(hub, folder, capsys):
    assert run(folder) == 0
    assert published(hub) == contents(folder)
    assert "15 files sent, 0 were there already" in capsys.readouterr().out
    commits = hub.repos["me/set"].commits
    assert "plan.json" in commits[1]
    assert all("README.md" not in commit for commit in commits[:-1])
    assert len(commits[-1]) == len(commits[-2]) + 1
    assert verify([str(folder), "--workers", "1"]) == 0


def test_the_same_command_again_sends_nothing(hub, folder, capsys):
    assert run(folder) == run(folder) == 0
    assert "0 files sent, 15 were there already" in capsys.readouterr().out
    assert len(hub.repos["me/set"].commits) == 3


def test_only_what_changed_is_sent_again(hub, folder, capsys):
    assert run(folder) == 0
    audit = {"dataset": {"fingerprint": load_plan(folder).fingerprint}}
    audit |= {"cifar10": {"name": "CIFAR-10"}, "summary": {"images": 19}}
    write_json(folder / "audit" / "audit.json", audit)
    assert run(folder) == 0
    assert "2 files sent" in capsys.readouterr().out
    assert published(hub) == contents(folder)


@pytest.mark.parametrize("private", [False, True])
def test_a_repository_is_private_on_request(private, hub, folder):
    assert run(folder, *(["--private"] if private else [])) == 0
    assert hub.repos["me/set"].private is private
    assert run(folder) == 0


FAULTS = {
    "429 with a time to wait": Fault("POST", "/preupload/", 429, headers={"Retry-After": "1"}),
    "429 on a commit": Fault("POST", "/commit/", 429, times=2),
    "503 on LFS": Fault("POST", "/objects/batch", 503, times=3),
    "503 on an upload": Fault("PUT", "/lfs/", 503, times=7),
    "503 longer than the client waits": Fault("POST", "/preupload/", 503, times=7),
    "503 on the listing": Fault("GET", "/tree/", 503, times=2),
    "503 on creation": Fault("POST", "/repos/create", 503),
    "500 on the card's check": Fault("POST", "/validate-yaml", 500),
    "an upload that is cut": Fault("PUT", "/lfs/", kind="cut", times=2),
    "a commit that is cut": Fault("POST", "/commit/", kind="cut"),
    "a commit whose answer is lost": Fault("POST", "/commit/", kind="lost"),
    "a listing that is cut": Fault("GET", "/tree/", kind="cut"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_passes_is_waited_for(name, hub, folder):
    hub.faults.append(FAULTS[name])
    assert run(folder) == 0
    assert FAULTS[name].times == 0, "the fault was not met"
    assert published(hub) == contents(folder)


def test_a_hub_that_stays_away_is_one_line_and_loses_nothing(hub, folder, capsys, caplog):
    fault = Fault("POST", "/commit/", kind="cut", times=1000, after=1)
    hub.faults.append(fault)
    assert run(folder) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("cifar5m-publish: the Hub cannot be reached (")
    assert "run the same command again" in error
    fault.times, before = 0, len(hub.seen)
    assert run(folder) == 0
    assert published(hub) == contents(folder)
    assert [path for method, path in hub.seen[before:] if method == "PUT"] == []


def refused(capsys) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0].removeprefix("cifar5m-publish: ")


def test_another_plan_is_refused(hub, folder, tmp_path, capsys):
    assert run(folder) == 0
    before = published(hub)
    assert run(make_set(tmp_path / "other", shard_size=7)) == 2
    assert "holds another plan; differing: shard_size is 5 there, 7 here" in refused(capsys)
    assert published(hub) == before


def test_somebody_elses_files_are_refused(hub, folder, capsys):
    hub.repos["me/set"] = Repo(commits=[{"train.csv": (b"a,b", False)}])
    assert run(folder) == 2
    assert "holds other files (train.csv) and no plan.json" in refused(capsys)


def test_a_public_repository_is_not_taken_for_a_private_one(hub, folder, capsys):
    assert run(folder) == 0
    capsys.readouterr()
    assert run(folder, "--private") == 2
    assert "is public already" in refused(capsys)


@pytest.mark.parametrize(
    "token, reason",
    [(None, "no token for the Hub"), ("hf_wrong", "the Hub does not accept the token")],
)
def test_a_token_is_needed(token, reason, hub, folder, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    assert run(folder) == 2
    assert reason in refused(capsys)
    assert not hub.repos


@pytest.mark.parametrize("there", [True, False])
def test_no_right_to_write_is_said(there, hub, folder, capsys):
    repo = "me/set" if there else "they/set"
    if there:
        hub.repos[repo], hub.readers = Repo(), {repo}
    assert main([str(folder), "--repo", repo, "--workers", "1", "--quiet"]) == 2
    assert f"the token may not write to {repo}" in refused(capsys)


@pytest.mark.parametrize("name", ["set", "me/../x", "a/b/c"])
def test_a_repository_has_a_user_and_a_name(name, folder, capsys):
    assert main([str(folder), "--repo", name, "--quiet"]) == 2
    assert refused(capsys).startswith("--repo")


def test_a_dry_run_lists_every_file_with_its_bytes_and_sends_nothing(hub, folder, capsys):
    before = contents(folder)
    assert run(folder, "--dry-run") == 0
    shown = capsys.readouterr().out.splitlines()[:-1]
    listed = [line for line in shown if re.fullmatch(r" *[\d,]+  \S+", line)]
    assert contents(folder) == before
    assert hub.seen == []
    assert run(folder) == 0
    rows = [line.split() for line in listed]
    sizes = {path: int(size.replace(",", "")) for size, path in rows}
    assert sizes == {path: len(data) for path, data in published(hub).items()}
    assert list(sizes)[-1] == "README.md"


def test_a_damaged_set_is_not_published(hub, folder, capsys):
    shard = shards_of(folder)[0]
    data = bytearray((folder / shard.tar).read_bytes())
    data[700] ^= 1
    (folder / shard.tar).write_bytes(data)
    assert run(folder) == 2
    assert f"see cifar5m-verify {folder}" in refused(capsys)
    assert hub.seen == []


def test_an_unfinished_set_is_published_only_when_asked(hub, folder, capsys):
    shard = shards_of(folder)[1]
    (folder / shard.record).unlink()
    assert run(folder) == 2
    assert "--partial" in refused(capsys)
    assert run(folder, "--partial") == 0
    assert not {str(shard.tar), str(shard.arrays)} & published(hub).keys()
    assert "| train | 9 | 14 | 2 |" in published(hub)["README.md"].decode()
    rewrite(folder, shard)
    assert run(folder) == 0
    assert published(hub) == contents(folder)


def test_what_a_killed_generation_left_is_not_published(hub, folder):
    (folder / "data" / ".train-00000-of-00003.tar.host.1.ab.tmp").write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    assert run(folder) == 0
    assert contents(folder).keys() - published(hub).keys() == {
        "data/.train-00000-of-00003.tar.host.1.ab.tmp",
        "notes.txt",
    }


def test_what_the_plan_names_beside_the_shards_is_published(hub, tmp_path):
    folder = make_set(tmp_path / "set", beside=["photographs.tsv", "broken.tsv"])
    (folder / "photographs.tsv").write_text("index\tname\n")
    assert run(folder) == 0
    assert published(hub) == contents(folder)


def test_no_directory_of_this_machine_is_published(hub, tmp_path, capsys):
    source = {"path": "/home/me/pools/part0.npz", "sha256": "0" * 64}
    about = {"recipe": "import of parts", "files": [source], "labeler": "user/name"}
    folder = make_set(tmp_path / "set", about=about)
    assert run(folder) == 0
    sent = json.loads(published(hub)["plan.json"])
    assert sent["about"]["files"] == [source | {"path": "part0.npz"}]
    assert sent["about"]["labeler"] == "user/name"
    assert json.loads((folder / "plan.json").read_text())["about"]["files"] == [source]
    assert sent["fingerprint"] == load_plan(folder).fingerprint
    assert run(folder) == 0  # what was sent is known again
    assert "0 files sent, 15 were there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "../secret.txt", "data/../../secret.txt", "link"]
)
def test_only_plain_paths_inside_the_directory_are_published(path, hub, tmp_path, capsys):
    folder = make_set(tmp_path / "set", beside=[path])
    (tmp_path / "secret.txt").write_text("mine")
    (folder / "link").symlink_to(tmp_path / "secret.txt")
    assert run(folder) == 2
    assert f"names the file {path!r}, which is not inside" in refused(capsys)
    assert hub.seen == []


def test_commits_keep_the_order_and_the_bounds():
    files = [File(f"{k}", 100 << 20) for k in range(5)] + [File(f"{k}", 1) for k in range(200)]
    cut = list(batches([*files, File("README.md", 1)]))
    assert [file for batch in cut for file in batch] == [*files, File("README.md", 1)]
    assert [len(batch) for batch in cut] == [2, 2, 99, 99, 3, 1]


def start(folder, hub, home) -> subprocess.Popen:
    """The command as installed, told of the Hub by its environment."""
    changes = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home),
        "PYTHONPATH": str(REPO),
    }
    command = [sys.executable, "-m", "cifar5m.commands.publish", str(folder), "--repo", "me/set"]
    return subprocess.Popen([*command, "--workers", "1", "--quiet"], env=os.environ | changes)


def test_two_kills_and_three_failures_later_all_is_there_once(folder, tmp_path):
    in_an_upload = Fault("PUT", "/lfs/", kind="hold", after=4)
    in_the_last_commit = Fault("POST", "/commit/", kind="hold", after=1)
    with hub_server() as hub:
        hub.faults += [
            Fault("POST", "/preupload/", 429, headers={"Retry-After": "0"}),
            Fault("PUT", "/lfs/", kind="cut"),
            in_an_upload,
            Fault("POST", "/objects/batch", 503, after=1),
            in_the_last_commit,
        ]
        for fault in (in_an_upload, in_the_last_commit):
            process = start_publishing(folder, hub, tmp_path / "home", xet=False)
            assert fault.reached.wait(60)
            process.kill()
            process.wait()
            fault.release.set()
        assert hub.repos["me/set"].messages == ["initial commit", "Add plan.json and 13 more"]
        assert start(folder, hub, tmp_path / "home").wait(60) == 0
        assert published(hub) == contents(folder)
        assert all(fault.times == 0 for fault in hub.faults)


def test_a_stop_signal_ends_a_pause(hub):
    hub.faults.append(Fault("GET", "/api/datasets/me/set", 503, times=100))
    asked = []

    def check(progress):
        asked.append(len(asked))
        if len(asked) == 4:  # after the beginning, the retry's note and a second of its pause
            raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        Hub("me/set", Phase("publish", None, check)).call("repo_exists")
    assert len(asked) == 4


@pytest.mark.parametrize("content", [b"no JSON", b"[1]"])
def test_a_plan_on_the_hub_that_is_none_is_one_line(content, hub, folder, capsys):
    hub.repos["me/set"] = Repo()
    hub.repos["me/set"].commits.append({"plan.json": (content, False)})
    assert run(folder) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "the plan.json of me/set cannot be read" in line


def test_a_dry_run_refuses_what_the_run_would(folder, capsys):
    (folder / "README.md").write_text("mine")
    assert run(folder, "--dry-run") == 2
    assert "was not written by cifar5m-publish" in capsys.readouterr().err


def test_a_half_made_labeling_is_not_called_half_generated(folder, labeler_folder, capsys):
    options = ["--labeler", str(labeler_folder), "--name", "second", "--device", "cpu", "--quiet"]
    assert label([str(folder), *options]) == 0
    for path in (folder / "labels/second/meta").glob("train-00001.*"):
        path.unlink()
    capsys.readouterr()
    assert run(folder, "--dry-run") == 2
    assert "finish labeling, with cifar5m-label" in capsys.readouterr().err
    assert run(folder, "--dry-run", "--partial") == 0


@pytest.mark.parametrize("damage", [b"", b"no Parquet"])
def test_a_damaged_parquet_file_is_made_again(damage, hub, folder):
    pytest.importorskip("pyarrow")
    assert run(folder, "--parquet") == 0
    whole = contents(folder)
    (folder / "parquet/test-00000-of-00001.parquet").write_bytes(damage)
    assert run(folder, "--parquet") == 0
    assert contents(folder) == whole
