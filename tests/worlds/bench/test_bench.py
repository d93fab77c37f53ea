import json

import pytest
import torch

from worlds.bench import throughput
from worlds.bench.throughput import (
    Rate,
    median_rate,
    median_ratio,
    random_split,
    samples_per_second,
    worlds_batches,
)
from worlds.commands import bench

FAST = ["--images", "512", "--turns", "1", "--seconds", "0.01"]


def test_bench_prints_a_table_and_json(capsys):
    assert bench.main(FAST) == 0
    lines = capsys.readouterr().out.splitlines()
    rates = json.loads(lines[-1])["samples_per_second"]
    assert list(rates) == ["worlds, cpu", "torch DataLoader, batched numpy"]
    assert min(rates.values()) > 0


@pytest.mark.parametrize(
    "options, says",
    [
        (["--images", "5"], "at least the batch size"),
        (["--turns", "0"], "--turns must be 1 or more"),
    ],
)
def test_bench_refuses_bad_input(capsys, options, says):
    assert bench.main([*FAST, *options]) == 2
    assert says in capsys.readouterr().err


def test_rates_are_measured_in_turns():
    split = random_split(256)
    rates = samples_per_second({"worlds": lambda: worlds_batches(split, 32)}, 3, 0.005)
    assert len(rates["worlds"]) == 3
    assert min(min(rate) for rate in rates["worlds"]) > 0


def test_ratios_are_of_neighbors():
    ours = [Rate(8, 4), Rate(6, 9), Rate(1, 1)]
    assert median_rate(ours) == (6, 4)
    assert median_ratio(ours, [Rate(2, 4), Rate(2, 3), Rate(1, 1)]) == (3, 1)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_a_turn_of_no_time_is_refused(seconds, capsys):
    assert bench.main([*FAST, "--seconds", seconds]) == 2
    assert capsys.readouterr().err == (
        "worlds-bench: --turns must be 1 or more, --seconds above 0\n"
    )


def test_what_a_gpu_has_not_made_yet_is_waited_for(monkeypatch):
    clock, pending = [0.0], [0]

    def launch():
        while True:
            pending[0] += 1
            clock[0] += 0.01  # a launch returns at once
            yield torch.zeros(1), torch.zeros(8)

    def wait():
        clock[0] += pending[0] * 0.09
        pending[0] = 0

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock[0])
    batches = launch()
    next(batches)
    assert throughput._rate(batches, 1.0).wall == pytest.approx(8 / 0.1)
