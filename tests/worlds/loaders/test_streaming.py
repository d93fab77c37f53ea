"""Streams of shards: every sample once, in an order that is addressed, whatever breaks."""

import json
import os
import signal
import time
from itertools import chain, pairwise

import numpy as np
import pytest
import torch

from tests.processes import Forked
from tests.worlds.loaders.shard_server import numbered, numbers, shard_server, write_shards
from worlds import StreamLoader
from worlds.data.remote import RemoteShard, StreamError, read_shard
from worlds.loaders.augment import augment_batch, parse_augment

SHARDS = 40
COUNTS = [5 + k % 7 for k in range(SHARDS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, COUNTS)
    return folder


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr("worlds.runtime.http.time.sleep", lambda seconds: None)
    # torch gives the worker processes of a loop that failed this long to end, 5 s otherwise.
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)


def stream(folder, shards="{00000..00039}", **options):
    return StreamLoader(f"{folder}/{shards}.tar", **{"batch_size": 12, **options})


def taken(loader):
    return [number for images, _ in loader for number in numbers(images)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ranks", [1, 3])
def test_ranks_and_workers_share_every_sample_once_over_cut_connections(folder, ranks, workers):
    with shard_server(folder, cut=3) as server:
        options = {"shards": "{00000..00013}", "world_size": ranks, "seed": 5}
        loaders = [
            stream(server.url, workers=workers, rank=rank, **options) for rank in range(ranks)
        ]
        found = [taken(loader) for loader in loaders]
        resumed = [asked for _, asked in server.seen if asked]
    assert sorted(chain.from_iterable(found)) == list(range(sum(COUNTS[:14])))
    assert len(resumed) > 14 // 4  # cut, and continued where they were cut
    local = [taken(stream(folder, workers=0, rank=rank, **options)) for rank in range(ranks)]
    assert found == local  # the order does not depend on the source, the workers or the cuts


def log_batches(url, log):
    """Log each batch's numbers with the loader's state, as a trainer that saves at every step."""
    loader = StreamLoader(url, 12, rank=1, world_size=3, workers=2)
    with log.open("a") as stream:
        for images, _ in loader:
            row = [numbers(images), loader.state_dict()]
            print(json.dumps(row), file=stream, flush=True)
            time.sleep(0.05)


def test_a_killed_stream_resumes_with_every_sample_once(folder, tmp_path):
    log = tmp_path / "log"
    with shard_server(folder, cut=3) as server:
        url = f"{server.url}/{{00000..00039}}.tar"
        process = Forked(log_batches, url, log, group=True)
        while not log.exists() or log.read_text().count("\n") < 7:
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        loader = StreamLoader(url, 12, rank=1, world_size=3, workers=0)
        loader.load_state_dict(rows[-1][1])
        done = list(chain.from_iterable(row[0] for row in rows))
        rest = taken(loader)
    assert 0 < len(done) < len(done) + len(rest)
    assert done + rest == taken(stream(folder, workers=0, rank=1, world_size=3))


@pytest.mark.parametrize("at", [0, 1, 5, 9, 24])
def test_a_restored_stream_gives_exactly_the_rest(folder, at):
    whole = taken(stream(folder, workers=0, passes=2))
    first = stream(folder, workers=0, passes=2)
    begun = [number for _, (x, _) in zip(range(at), first, strict=False) for number in numbers(x)]
    second = stream(folder, workers=0, passes=2)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert begun + taken(second) == whole
    assert second.step == -(-len(whole) // 12)


def test_passes_differ_in_their_order_and_each_holds_every_sample(folder):
    samples = taken(stream(folder, workers=0, passes=2))
    first, second = samples[: sum(COUNTS)], samples[sum(COUNTS) :]
    assert sorted(first) == sorted(second) == list(range(sum(COUNTS)))
    assert first != second


def test_samples_move_only_within_their_window_of_shards(folder):
    loader = stream(folder, workers=0, window=3)
    shard_of = np.repeat(np.arange(SHARDS), COUNTS)
    place = np.argsort(loader.shard_order(0))  # of each shard in the pass
    windows = [int(place[shard_of[number]]) // 3 for number in taken(loader)]
    assert windows == sorted(windows)
    single = [int(shard_of[number]) for number in taken(stream(folder, workers=0, window=1))]
    changes = sum(a != b for a, b in pairwise(single))
    assert changes == SHARDS - 1


def test_the_order_is_frozen(tmp_path):
    """Literals: a change of them would change every run that resumes across it."""
    write_shards(tmp_path, [4, 3, 5])
    loader = StreamLoader(f"{tmp_path}/*.tar", 12, window=2, seed=7, workers=0)
    assert loader.shard_order(0).tolist() == [1, 2, 0]
    assert taken(loader) == [6, 11, 8, 10, 4, 7, 5, 9, 2, 1, 0, 3]


def test_crops_and_flips_are_addressed_by_shard_and_place_not_by_rank(folder):
    seen = {}
    for ranks in (1, 3):
        for rank in range(ranks):
            options = {"augment": "crop+flip", "workers": 0, "rank": rank, "world_size": ranks}
            plain = taken(stream(folder, workers=0, rank=rank, world_size=ranks))
            images = torch.cat([x for x, _ in stream(folder, **options)])
            for number, image in zip(plain, images, strict=True):
                seen.setdefault(number, []).append(image)
    assert all(torch.equal(*pair) for pair in seen.values())
    shard = int(stream(folder, workers=0).shard_order(0)[0])
    first = set(range(sum(COUNTS[:shard]), sum(COUNTS[: shard + 1])))
    crops = parse_augment("crop+flip")
    order = [number for number in taken(stream(folder, workers=0)) if number in first]
    pixels = torch.from_numpy(np.stack([numbered(number) for number in order]))
    expected = augment_batch(pixels, crops, 0, 0, torch.arange(len(order)))
    assert all(torch.equal(seen[n][0], x) for n, x in zip(order, expected, strict=True))


def test_labels_come_with_their_images(folder):
    for images, labels in stream(folder, workers=0, normalize="unit"):
        assert images.min() >= 0
        found = numbers(images * 2 - 1)
        assert labels.tolist() == [number % 10 for number in found]


def test_a_server_without_ranges_is_read_from_the_start_again(folder):
    with shard_server(folder, cut=2, ranges=False) as server:
        images, labels = read_shard(RemoteShard(f"{server.url}/00003.tar"))
    assert len(images) == len(labels) == COUNTS[3]


@pytest.mark.parametrize(
    "answer, workers, said",
    [
        ((404, {}), 0, "HTTP 404 Not Found"),
        ((404, {}), 1, "HTTP 404 Not Found"),
        ((503, {}), 0, "HTTP 503 Service Unavailable at byte 0, 6 attempts in a row"),
        ((429, {"RateLimit": '"api";r=0;t=55'}), 0, "rate limit reached, HTTP 429"),
    ],
)
def test_what_stays_broken_is_one_line_that_names_the_shard(folder, answer, workers, said):
    with shard_server(folder, refuse={"00007.tar": [answer]}) as server:
        loader = StreamLoader(f"{server.url}/{{00007..00008}}.tar", 2, workers=workers)
        with pytest.raises(StreamError, match=said) as error:
            taken(loader)
    assert "00007.tar" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_rate_limit_is_waited_for_as_long_as_it_asks(folder, monkeypatch):
    waits = []
    monkeypatch.setattr("worlds.runtime.http.time.sleep", waits.append)
    answers = [(429, {"RateLimit": '"api";r=0;t=55'}), (503, {"Retry-After": "7"}), (None, {})]
    with shard_server(folder, refuse={"00001.tar": answers}) as server:
        read_shard(RemoteShard(f"{server.url}/00001.tar"))
    assert waits == [55.0, 7.0]


def test_a_tar_without_its_end_is_refused(folder, tmp_path):
    data = (folder / "00002.tar").read_bytes()
    for length in (len(data) - 10240, 512 * 9, 700):
        (tmp_path / "short.tar").write_bytes(data[:length])
        with pytest.raises(StreamError, match=r"short.tar is damaged or cut short"):
            read_shard(RemoteShard(str(tmp_path / "short.tar")))


def test_more_steps_than_the_shards_hold_are_refused(folder):
    loader = stream(folder, workers=0, steps=100)
    with pytest.raises(ValueError, match="fed rank 0 26 of 100 steps"):
        taken(loader)


def test_a_state_of_another_configuration_is_refused_by_its_field(folder):
    state = stream(folder, workers=0, rank=1, world_size=3).state_dict()
    with pytest.raises(ValueError, match="rank = 1, this one has 0"):
        stream(folder, workers=0, rank=0, world_size=3).load_state_dict(state)
    with pytest.raises(ValueError, match="window = 4, this one has 2"):
        stream(folder, workers=0, rank=1, world_size=3, window=2).load_state_dict(state)
