"""The list of experiments: what each expands to, what is shared, and what a scale makes of it."""

import importlib
import re
from collections import deque
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from worlds.experiments.costs import PER_SECOND, estimate, gpu_hours
from worlds.experiments.plan import NOT_JUDGED, Job, expand, jobs_of
from worlds.experiments.protocol import ideal_of, pairs
from worlds.experiments.registry import MODULES, Recipe, find_recipes, recipes
from worlds.experiments.run.local import Progress, next_free
from worlds.experiments.run.select import devices_of
from worlds.experiments.scales import scaled
from worlds.experiments.sources import Sources, infeasible, make_pool
from worlds.experiments.spec import Experiment
from worlds.models.darts import connected_seeds, draw_genotype, is_connected
from worlds.runtime.files import write_json
from worlds.training.config import RUN, TrainConfig, ideal_key

# Runs and steps at the paper's scale with the paper's trials: what a change of a recipe changes.
PAPER = {
    "fig1": (60, 2_340_000),
    "fig8": (60, 2_340_000),
    "fig6": (20, 780_000),
    "fig16": (20, 780_000),
    "fig2a": (600, 23_400_000),  # 10 networks x 3 rates x 2 worlds x 10 trials
    "fig17": (600, 23_400_000),
    "fig11a": (1_200, 46_800_000),  # and figure 2a's beside them
    "fig12a": (180, 7_020_000),
    "fig12": (180, 7_020_000),
    "fig18": (180, 7_020_000),
    "fig18_loss": (180, 7_020_000),
    "fig4b": (500, 19_500_000),  # 4 n and one Ideal World of each network
    "fig2b": (1_000, 39_000_000),
    "fig9": (1_000, 39_000_000),
    "fig3a": (300, 2_808_000),  # 9,360 steps each
    "fig3b": (160, 1_497_600),
    "fig4a": (70, 2_730_000),
    "samples_50k": (6, 7_800),
    "teacher_pool": (75, 52_500),
    "pool_50k": (60, 42_000),
    "fig5a": (40, 1_560_000),
    "fig11b": (40, 312_000),  # 7,800 steps each
    "fig10": (80, 3_120_000),
    "fig5c": (40, 1_560_000),
    "fig7": (84, 8_400),  # the Ideal World has no trials
    "regression": (42, 10_200),  # 12 of the toy, 30 of the linear network
    "fig15": (20, 390_000),  # 19,500 steps each
    "fig13": (20, 780_000),
    "fig14": (20, 780_000),
    "fig5b": (20, 7_800),
    "fig19": (2, 2),
    "fig21": (1, 1),
    "table1": (10, 390_000),  # 5 trials
    "table2": (10, 390_000),
    "table2_cited": (10, 780_000),
    "random_labels": (20, 780_000),
    "noisy_test": (20, 780_000),
    "rrm": (20, 780_000),
    "rrm_50k": (2, 2_600),
    "class_pair": (20, 780_000),
    "erm": (80, 3_120_000),
    "stopping": (60, 2_340_000),
    "early_stopping": (30, 1_170_000),
    "decelerators": (80, 3_120_000),
    "aggressive": (80, 3_120_000),
    "reuse": (160, 3_900_000),  # 7 K and one Ideal World of two lengths
    "appendix_c": (50, 1_950_000),
    "sss": (4, 2_600),
    "rrm_sss": (13, 4_558),
    "rrm_sweep": (15, 9_757),
    "calibration": (24, 24_000),  # 2 networks, 2 n and one Ideal World, 4 trials
    "agreement": (24, 24_000),
    "representation": (24, 24_000),
    "transfer": (32, 15_620),
    "ensembles": (24, 16_800),
}


@cache
def expanded_one(name, scale, trials):
    (recipe,) = find_recipes([name])
    return expand(recipe, scale, trials)


def expanded(*names, scale="paper", trials=None):
    found = find_recipes(list(names) or ["all"])
    return [expanded_one(recipe.name, scale, trials) for recipe in found]


def steps_of(jobs):
    return sum(job.config.steps for job in jobs)


@cache
def runs_of(*names, scale="paper"):
    return jobs_of(expanded(*names, scale=scale))


def test_each_experiment_expands_to_its_runs_and_steps():
    counts = {one.name: runs_of(one.name) for one in expanded()}
    assert {name: (len(runs), steps_of(runs)) for name, runs in counts.items()} == PAPER


@pytest.mark.parametrize(
    "scale, runs, steps", [("paper", 4_298, 136_628_037), ("small", 576, 553_677)]
)
def test_runs_of_several_experiments_are_there_once(scale, runs, steps):
    jobs = runs_of(scale=scale)
    assert (len(jobs), steps_of(jobs)) == (runs, steps)
    assert len({job.name for job in jobs}) == runs
    main = next(j for j in jobs if j.experiments[:1] == ("fig2a",) and j.config.trial == 0)
    assert {"fig2a", "fig17"} <= set(main.experiments)


@pytest.mark.parametrize(
    "names, apart, together",
    [
        ("fig1 fig8 fig6 fig16 stopping fig13", 240, 60),
        ("fig2b fig9", 2_000, 1_000),
        ("fig2a fig17", 1_200, 600),
        ("fig4a fig4b", 570, 520),  # ResNet18 at 5, 10, 25 and 50 thousand, and its Ideal World
        ("fig5a fig11a fig2a", 1_840, 1_200),
        ("fig2a fig11a fig10 fig14 erm", 1_980, 1_200),
        ("fig3a fig3b", 460, 440),  # width 64 is ResNet18
        ("samples_50k rrm_50k", 8, 7),
        ("reuse appendix_c", 210, 200),
        ("calibration agreement representation transfer", 104, 44),
        ("table1 fig2a", 610, 605),
        ("fig15 fig11b fig2a", 660, 660),  # schedules of their own have Ideal Worlds of their own
    ],
)
def test_what_is_shared(names, apart, together):
    assert sum(len(runs_of(name)) for name in names.split()) == apart
    assert len(runs_of(*names.split())) == together


def test_the_worlds_of_a_group_differ_in_nothing_an_ideal_world_depends_on():
    for one in expanded(scale="small"):
        for group in one.groups:
            if group.real and group.ideal and one.recipe.data != "none":
                if not group.ideal[0].disjoint:
                    keys = {ideal_key(config) for config in (*group.real, *group.ideal)}
                    assert len(keys) == 1, (one.name, group.label)
                assert [c.trial for c in group.real] == [c.trial for c in group.ideal]


def test_one_disjoint_ideal_world_leaves_out_the_samples_of_every_n():
    (one,) = expanded("samples_50k")
    (ideal,) = {config.fingerprint(): config for g in one.groups for config in g.ideal}.values()
    assert ideal.disjoint
    assert ideal.n == max(config.n for g in one.groups for config in g.real)  # n are nested
    assert ideal.steps * ideal.batch_size <= 50_000 - ideal.n


def test_both_worlds_get_the_same_random_network():
    (one,) = expanded("fig2b", scale="smoke")
    for group in one.groups:
        assert group.real[0].options == group.ideal[0].options
    seeds = [group.real[0].options["seed"] for group in one.groups]
    assert seeds == [0, 1, 2]


def test_ideal_of_forgets_what_decides_nothing():
    real = TrainConfig("net", n=5_000, train_eval=100, stop="patience", patience=3, trial=2)
    assert ideal_of(real) == TrainConfig("net", world="ideal", trial=2)
    apart = replace(real, disjoint=True)
    assert ideal_of(apart) == TrainConfig("net", world="ideal", trial=2, n=5_000, disjoint=True)


@pytest.mark.parametrize(
    "config, scale, expected",
    [
        ({}, "small", {"n": 5_000, "steps": 1_500, "unit": 15}),
        ({"n": 1_000}, "small", {"n": 100, "steps": 1_500, "unit": 15}),
        ({"steps": 19_500, "schedule": "3step"}, "small", {"n": 5_000, "steps": 750, "unit": 15}),
        ({"n": 10_000, "steps": 7_800, "unit": 78}, "small", {"n": 1_000, "steps": 300, "unit": 3}),
        ({}, "smoke", {"n": 1_000, "steps": 100, "unit": 1}),
        ({"n": 100}, "smoke", {"n": 10, "steps": 100, "unit": 1}),
        ({"steps": 19_500, "schedule": "3step"}, "smoke", {"n": 1_000, "steps": 50, "unit": 1}),
        ({"n": 10_000, "steps": 7_800, "unit": 78}, "smoke", {"n": 200, "steps": 20, "unit": 1}),
    ],
)
def test_a_scale_keeps_the_shape_of_the_schedule(config, scale, expected):
    paper = TrainConfig("preresnet18", **config)
    small = scaled(paper, scale)
    assert {name: getattr(small, name) for name in expected} == expected
    assert small.batch_size == 32
    if small.steps >= 100 or paper.schedule == "3step":
        assert small.rate.units == paper.rate.units
    kept = ("learning_rate", "momentum", "optimizer", "schedule", "augment", "loss", "trial")
    assert all(getattr(small, name) == getattr(paper, name) for name in kept)


def test_what_is_short_already_stays_and_paper_changes_nothing():
    short = TrainConfig("myrtle5", steps=1_300, batch_size=32, unit=13)
    assert scaled(short, "small") is short
    assert scaled(TrainConfig("preresnet18"), "paper") == TrainConfig("preresnet18")
    with pytest.raises(ValueError, match="scale must be one of paper, small, smoke, got 'tiny'"):
        scaled(short, "tiny")


@pytest.mark.parametrize("scale", ["small", "smoke"])
def test_networks_that_differ_still_differ_when_they_are_small(scale):
    (one,) = expanded("fig2a", scale=scale)
    nets = {(g.real[0].arch, tuple(g.real[0].options.items())) for g in one.groups}
    assert len(nets) == 10


def test_only_the_paper_and_small_scales_judge():
    small, smoke = (expanded("fig1", scale=scale)[0].experiment for scale in ("small", "smoke"))
    assert small.checks
    assert not smoke.checks
    assert smoke.note.endswith(NOT_JUDGED)
    (toy,) = expanded("fig7", scale="smoke")
    assert len(toy.experiment.checks) == 4  # the toy is never smaller
    assert len(jobs_of([toy])) == 84


def test_weights_add_the_pretrained_half_of_figures_13_and_14():
    (recipe,) = find_recipes(["fig14"])
    one = expand(recipe, weights="mlp.pt")
    assert [group.label for group in one.groups] == ["from scratch", "pretrained"]
    assert {c.initial for c in (*one.groups[1].real, *one.groups[1].ideal)} == {"mlp.pt"}
    assert "--weights fig14=mlp.pt" in one.experiment.command
    assert "Not here" not in one.experiment.note
    small = expand(recipe, "small", weights="mlp.pt").groups
    assert [group.real[0].initial for group in small] == [None, "mlp.pt"]
    with pytest.raises(ValueError, match="fig1 takes no --weights"):
        expand(*find_recipes(["fig1"]), weights="mlp.pt")


@pytest.mark.parametrize("scale", ["small", "smoke"])
def test_below_the_papers_scale_figures_13_and_14_pretrain_on_other_classes(scale):
    for one in expanded("fig13", "fig14", scale=scale):
        before, plain, tuned = one.groups
        assert (before.data, plain.data, tuned.data) == ("first5", "last5", "last5")
        start = RUN + before.ideal[0].fingerprint()
        assert {run.initial for run in (*tuned.real, *tuned.ideal)} == {start}
        assert replace(tuned.real[0], initial=None) == plain.real[0]
        waiting = [job for job in jobs_of([one]) if job.needs]
        assert [job.config.world for job in waiting] == ["real", "ideal"]
        assert "paper pretrains on ImageNet" in one.experiment.note


def test_the_two_halves_of_the_classes_share_no_image(tmp_path):
    sources = Sources.make(tmp_path)
    first, last = sources.data("first5"), sources.data("last5")
    assert first.train.class_names == tuple(f"made class {k}" for k in range(5))
    assert len(first.train) + len(last.train) == 4_096
    assert not set(first.train.indices) & set(last.train.indices)
    assert len(last.test.class_names) == 5


def test_weights_add_the_checkpoints_of_figure_5b():
    (recipe,) = find_recipes(["fig5b"])
    labels = {given: [g.label for g in expand(recipe, weights=given).groups] for given in
              (None, "final.pt", "early.pt,final.pt")}  # fmt: skip
    final, early = "final checkpoint", "early checkpoint"
    assert list(labels.values()) == [
        ["from scratch"],
        ["from scratch", final],
        ["from scratch", early, final],
    ]
    (run, *_) = expand(recipe, weights="early.pt,final.pt").groups[1].real
    assert (run.initial, run.betas, run.optimizer) == ("early.pt", (0.9, 0.95), "adam")


def test_every_experiment_makes_a_checkable_claim():
    for one in expanded():
        assert one.experiment.checks, one.name


def test_every_experiment_has_its_row_in_the_documentation_of_the_paper():
    text = (Path(__file__).parents[3] / "docs" / "paper.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[2])}
    assert {recipe.name for recipe in recipes()} == named
    assert all(len(row) == 7 for row in rows)  # five columns each


def test_t0_is_read_from_all_samples_with_fresh_crops_unless_asked_otherwise():
    (recipe,) = find_recipes(["fig1"])
    readings = {}
    for cheap, whole in ((False, False), (True, True)):
        one = expand(recipe, cheap=cheap, whole_test=whole)
        (real, *_), (ideal, *_) = one.groups[0].real, one.groups[0].ideal
        readings[cheap] = (real.train_eval, real.fresh_crops, real.test_eval, ideal.test_eval)
        assert not ideal.fresh_crops
        asked = one.experiment.command.split("fig1")[1]
        assert ("--cheap-train-error --whole-test" in asked) == cheap
    assert readings == {False: (None, True, 10_000, 10_000), True: (10_000, False, None, None)}
    assert not expand(recipe, "small").groups[0].real[0].fresh_crops


def test_disconnected_random_networks_are_drawn_again_and_counted():
    seeds = connected_seeds(500)
    assert sorted(set(range(502)) - set(seeds)) == [210, 393]
    assert [is_connected(draw_genotype(seed)) for seed in (210, 393, 0)] == [False, False, True]
    for name in ("fig2b", "fig9"):
        note = expanded(name)[0].experiment.note
        assert "2 of 502 draws were disconnected" in note


def test_trials_are_the_papers_or_as_asked():
    for scale, asked, trials in (("paper", None, 10), ("small", None, 1), ("small", 3, 3)):
        (one,) = expanded("fig1", scale=scale, trials=asked)
        assert [config.trial for config in one.groups[0].ideal] == list(range(trials))
    with pytest.raises(ValueError, match="trials must be 1 or more, got 0"):
        expanded("fig1", trials=0)


@pytest.mark.parametrize(
    "name, scale, command",
    [
        ("fig1", "paper", "run fig1 --scale paper --trials 10 --data DIR"),
        ("fig1", "smoke", "run fig1 --scale smoke --trials 1"),
        ("fig7", "smoke", "run fig7 --scale smoke --trials 20"),
        ("fig3a", "smoke", "run fig3a --scale smoke --trials 1 --dogbird DIR"),
        ("table1", "small", "run table1 --scale small --trials 1 --data DIR --cifar10 DIR"),
    ],
)
def test_the_report_tells_the_very_command(name, scale, command):
    (one,) = expanded(name, scale=scale)
    assert one.experiment.command == f"worlds-experiment {command}"


def test_every_experiment_says_its_command_cost_and_claim():
    for one in expanded(scale="small"):
        text = one.recipe.text
        commands = re.findall(r"^    worlds-experiment run (.*)$", text, re.MULTILINE)
        assert one.name in " ".join(commands).split(), one.name
        assert one.experiment.name == one.name
        assert one.experiment.claim
        assert Experiment.from_json(one.experiment.to_json()) == one.experiment


def test_the_cost_in_a_files_docstring_is_that_of_its_experiments():
    told = re.compile(r"At the paper's scale: ([\d,]+) runs, ([\d,]+) steps")
    checked = 0
    for name in MODULES:
        module = importlib.import_module(f"worlds.experiments.figures.{name}")
        *parts, _ = re.split(r"(?<=steps), about", module.__doc__)
        for part in parts:  # the names of its commands, then their cost
            commands = re.findall(r"worlds-experiment run ([\w ]+?)(?: --|$)", part, re.MULTILINE)
            jobs = runs_of(*" ".join(commands).split())
            assert told.findall(part) == [(f"{len(jobs):,}", f"{steps_of(jobs):,}")], commands
            checked += 1
    assert checked == 18  # all but the toy example's


def test_the_cost_of_a_run_is_counted():
    job = Job(TrainConfig("preresnet18"), "cifar5m", ("fig2a",))
    cost = estimate(job)
    assert cost.steps == 39_000
    assert cost.training_images == 4_992_000
    assert cost.evaluation_images == 963 * (10_000 + 2 * 10_000)  # the paper's 962, and the last
    fresh = replace(job.config, train_eval=None, fresh_crops=True)
    images = estimate(replace(job, config=fresh)).evaluation_images
    assert images == 963 * (10_000 + 50_000 + 10_000)  # test, all n under crops, some as stored
    assert cost.multiply_adds == 555_422_720
    hours = (cost.evaluation_images + 3 * cost.training_images) * 555_422_720 / PER_SECOND / 3600
    assert gpu_hours([cost, cost]) == pytest.approx(2 * hours)
    assert estimate(Job(TrainConfig("linear_regression"), "none", ())).total_multiply_adds == 0


@pytest.mark.slow
def test_the_mean_cost_of_random_networks_is_that_of_the_five_hundred():
    from worlds.experiments.costs import _RANDOM
    from worlds.models import find
    from worlds.models.measure import describe

    (one,) = expanded("fig2b")
    found = {}
    for group in one.groups:
        options = group.real[0].options
        row = describe(find("darts"), 10, **options)
        found.setdefault((options["width"], options["cells"]), []).append(row.multiply_adds)
    assert {setting: round(sum(v) / len(v)) for setting, v in found.items()} == _RANDOM


def test_names_are_unique_and_unknown_ones_are_told_what_there_is(monkeypatch):
    assert sorted(recipe.name for recipe in recipes()) == sorted(PAPER)
    with pytest.raises(ValueError, match=r"no experiment fig44a; did you mean fig4a .*known: all,"):
        find_recipes(["fig44a"])
    assert [r.name for r in find_recipes(["fig7", "fig7", "fig1"])] == ["fig7", "fig1"]
    twice = importlib.import_module("worlds.experiments.figures.appendix_a")
    monkeypatch.setattr(twice, "RECIPES", twice.RECIPES * 2)
    with pytest.raises(ValueError, match="2 experiments are called fig7"):
        recipes()
    with pytest.raises(
        ValueError, match=r"data must be one of cifar5m, cifar10, .* first5, last5, none"
    ):
        Recipe("new", "New", "curves", pairs({}), data="mnist")


def test_made_data_are_the_same_every_time_and_feed_the_smoke_scale(tmp_path):
    files = []
    for name in ("a", "b"):
        folder = make_pool(tmp_path / name, "cifar10")
        files.append([(folder / file).read_bytes() for file in ("images.npy", "labels.npy")])
    assert files[0] == files[1]
    data = cache(Sources.make(tmp_path).data)
    for one in expanded(scale="smoke"):
        kinds = one.kinds - {"none", "dogbird"}
        if not kinds:
            continue
        for job in jobs_of([one]):
            if job.data == "none":
                continue
            assert infeasible(job.config, data(job.data)) is None, (one.name, job.name)


def test_data_that_are_absent_or_too_small_are_named(tmp_path):
    assert "cifar5m-generate" in Sources().missing("cifar5m")
    assert "--dogbird DIR" in Sources("pool").missing("dogbird")
    assert Sources().missing("none") is None
    assert "--data DIR" in Sources(cifar10="somewhere").missing("cifar10")
    data = Sources.make(tmp_path).data("cifar5m")
    assert data.name == "made data"
    real = TrainConfig("mlp_3x16", n=5_000)
    assert infeasible(real, data) == "n = 5,000 needs a pool of that many, made data has 4,096"
    ideal = TrainConfig("mlp_3x16", world="ideal", steps=130, batch_size=32)
    assert "takes 4,160 images, made data gives 4,096 in the 1 passes" in infeasible(ideal, data)
    apart = replace(ideal, steps=100, n=1_000, disjoint=True)
    assert "takes 3,200 images, made data gives 3,096" in infeasible(apart, data)


def test_each_sample_is_used_k_times_at_every_scale():
    for scale in ("paper", "small", "smoke"):
        (one,) = expanded("reuse", scale=scale)
        for group in one.groups:
            run = group.real[0]
            assert run.reuse == group.x
            assert run.n * run.reuse == run.steps * run.batch_size
            assert run.steps == group.ideal[0].steps


@pytest.mark.parametrize(
    "gpus, workers, expected",
    [
        (1, 2, ["cuda:0"] * 2),
        (2, None, ["cuda:0", "cuda:1"]),
        (2, 3, ["cuda:0", "cuda:1", "cuda:0"]),
    ],
)
def test_workers_share_the_gpus_so_that_both_worlds_train_on_one(
    gpus, workers, expected, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert devices_of("auto", workers) == expected


def test_a_run_that_begins_from_another_waits_for_it_and_fails_with_it(tmp_path):
    jobs = runs_of("rrm_sss", scale="small")
    made = {RUN + job.config.fingerprint() for job in jobs}
    waiting = deque(job for job in jobs if job.needs)
    assert waiting
    assert {job.config.initial for job in waiting} < made
    first = next(job for job in jobs if job.name.endswith(waiting[0].needs))
    assert next_free(waiting, tmp_path, Progress()) is None
    write_json(first.folder(tmp_path) / "summary.json", {})
    ready = next_free(waiting, tmp_path, Progress())
    assert ready.config.initial == RUN + first.config.fingerprint()
    failed = Progress(failed={job.name: "full disk" for job in jobs if not job.needs})
    assert next_free(waiting, tmp_path, failed) is None
    assert not waiting
    assert "the run that it begins from failed" in failed.failed.values()


def test_of_another_model_runs_still_begin_from_their_own_first_runs():
    (recipe,) = find_recipes(["rrm_sss"])
    jobs = jobs_of([expand(recipe, "small", model="mlp_2x16")])
    made = {RUN + job.config.fingerprint() for job in jobs}
    assert {job.config.initial for job in jobs} - {None} <= made
    assert {job.config.arch for job in jobs} == {"mlp_2x16"}
