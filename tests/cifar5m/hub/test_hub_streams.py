"""A published set is streamed from the Hub without a copy; a busy Hub is waited for."""

import numpy as np
import pytest

from cifar5m.commands.publish import main
from tests.cifar5m.loopback_hub import Fault, hub_of_this_process
from tests.cifar5m.small_set import images_of, labels_of, make_set, shards_of
from worlds import StreamLoader, open_store

# huggingface_hub's own way of sending files.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
LIMITED = {"RateLimit": '"api";r=0;t=55'}


@pytest.fixture
def hub(tmp_path):
    with hub_of_this_process(tmp_path) as hub:
        folder = make_set(tmp_path / "set")
        assert main([str(folder), "--repo", "me/set", "--workers", "1", "--quiet"]) == 0
        hub.folder = folder
        yield hub


def test_a_published_set_is_streamed_whole_and_only_its_split(hub):
    loader = StreamLoader("hf://datasets/me/set", 8, workers=0, normalize="unit")
    shards = [shard for shard in shards_of(hub.folder) if shard.split == "train"]
    labels = np.concatenate([*map(labels_of, shards)])
    images = np.concatenate([*map(images_of, shards)])
    assert len(loader) == -(-len(labels) // 8)
    seen = [(x, y) for x, y in loader]
    got = np.concatenate([(x.numpy() * 255).round().astype(np.uint8) for x, _ in seen])
    pairs = sorted((i.tobytes(), int(y)) for i, y in zip(images, labels, strict=True))
    found = np.concatenate([y.numpy() for _, y in seen])
    rows = zip(got.transpose(0, 2, 3, 1), found, strict=True)
    assert sorted((np.ascontiguousarray(i).tobytes(), int(y)) for i, y in rows) == pairs


@pytest.mark.parametrize(
    "read", [open_store, lambda a: StreamLoader(a, 8)], ids=["store", "stream"]
)
def test_a_rate_limit_is_waited_out_and_said(hub, read, monkeypatch):
    waits = []
    monkeypatch.setattr("worlds.data.hub.time.sleep", waits.append)
    hub.faults.append(Fault("GET", "/api/datasets/me/set", status=429, headers=LIMITED, times=1))
    with pytest.warns(UserWarning, match="rate limit reached, HTTP 429.*again in 55 s"):
        read("hf://datasets/me/set")
    assert waits == [55.0]


@pytest.mark.filterwarnings("ignore:hf.*again in")
@pytest.mark.parametrize("status, kind", [(401, ValueError), (429, OSError), (503, OSError)])
def test_a_refused_read_is_one_line_with_its_status(hub, status, kind):
    hub.faults.append(Fault("GET", "/api/datasets/me/set", status=status, times=99))
    with pytest.raises(kind, match=f"hf://datasets/me/set.*{status}|private") as error:
        StreamLoader("hf://datasets/me/set", 8)
    assert "\n" not in str(error.value)


def test_samples_are_read_back_after_the_upload(hub, capsys):
    again = [str(hub.folder), "--repo", "me/set", "--workers", "1", "--quiet"]
    assert main(again) == 0
    assert " samples read back: " in capsys.readouterr().out


def test_a_hub_that_gives_other_bytes_back_is_found_out(hub, capsys):
    for digest, data in hub.objects.items():
        if b"PNG" in data:  # a tar
            hub.objects[digest] = data.replace(b"IHDR", b"XHDR")
    again = [str(hub.folder), "--repo", "me/set", "--workers", "1", "--quiet"]
    assert main(again) == 1
    assert "read back differs from the one sent" in capsys.readouterr().err


def test_a_dry_run_shows_the_card(folder, capsys):
    assert main([str(folder), "--repo", "me/set", "--workers", "1", "--quiet", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("README.md would be:")
    assert "license:" in shown
    assert not (folder / "README.md").exists()
