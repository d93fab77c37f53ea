"""Reports of made runs: what is drawn, what is said, and what is said to be missing."""

import csv
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.worlds.made_runs import DATA, config, rows_of, write_pair, write_run, write_toys
from worlds.cli.drawing import THEME
from worlds.commands.report import main
from worlds.experiments.linear_regression import config_of, toys
from worlds.experiments.spec import Check, Experiment, Group, read_experiment, write_experiment
from worlds.report import write
from worlds.report.write import write_report


def group(root, label="net", trials=(0, 1), gap=0.02, **fields):
    """Runs of both worlds, below `root`, and the group that they are."""
    own = config(**fields)
    real, ideal = write_pair(root / label, own, trials=trials, spread=0.05, gap=gap)
    return Group(label, *(tuple(run.config for run in runs) for runs in (real, ideal)))


def experiment(root, groups, kind="curves", **fields):
    made = Experiment("fig", "A figure", kind, tuple(groups), claim="They are close.", **fields)
    write_experiment(made, root)
    return made


def report(root, **options):
    written = write_report([root], root / "report", **options)
    return {entry.experiment.name: entry for entry in written.entries}, written


@pytest.fixture
def no_rendering(monkeypatch):
    """Figures are made, but not rendered, which is most of a report's time."""
    svg = '<svg xmlns="http://www.w3.org/2000/svg"/>'
    monkeypatch.setattr(write, "to_svg", lambda figure: svg)
    monkeypatch.setattr(write, "_write_figure", lambda figure, name, out: svg)


unrendered = pytest.mark.usefixtures("no_rendering")  # where what is told is tested


class Page(HTMLParser):
    """Ids, links and tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.tags = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href"):
                self.links.append(value)


@unrendered
def test_the_verdict_compares_the_median_with_the_claim(tmp_path):
    groups = [group(tmp_path, "small"), group(tmp_path, "large", n=2_000)]
    checks = (
        Check("gap", "within", tolerance=0.021),
        Check("gap", "within", tolerance=0.019, groups=("large",)),
        Check("loss:gap", "at least", 0.15),
        Check("t0", "rises", tolerance=1),
    )
    experiment(tmp_path, groups, checks=checks, command="worlds-experiment run fig")
    entries, written = report(tmp_path)
    assert list(entries) == ["fig"]  # runs of an experiment are drawn by it alone
    assert [state for _, state in entries["fig"].verdict.lines] == [
        "holds",
        "fails",
        "holds",
        "holds",
    ]
    assert entries["fig"].verdict.status == "fails"
    assert entries["fig"].verdict.lines[1][0] == (
        "bootstrap error of large within 0.019 of 0: 0.020, 0.020 to 0.020 over 2 trials"
    )
    assert "All 4 trials reached T0" in entries["fig"].sentence
    page = written.page.read_text()
    for text in ("They are close.", "worlds-experiment run fig", "does not hold"):
        assert text in page


@unrendered
def test_the_command_says_the_number_that_fails(tmp_path, capsys):
    experiment(tmp_path, [group(tmp_path)], checks=(Check("gap", "within", tolerance=0.019),))
    assert main([str(tmp_path), "--out", str(tmp_path / "report")]) == 0
    told = capsys.readouterr().out
    assert "  fails: bootstrap error of net within 0.019 of 0: 0.020, 0.020 to 0.020" in told


@unrendered
def test_a_train_error_without_the_metric_of_the_figure_is_in_the_table(tmp_path):
    own = config()

    def rows(step):  # as a Recorder's that logs no other train metric
        row = rows_of(own)(step)
        return {name: value for name, value in row.items() if name != "train_soft_error"}

    write_run(tmp_path / "real-0", own, rows)
    entries, written = report(tmp_path)
    [measured] = entries["curves"].measured
    assert measured.get("train_error") == rows(own.steps - 1)["train_error"]
    assert "Real World train error, last step" in written.page.read_text()


@pytest.mark.parametrize(
    "check, values, met",
    [
        (Check("gap", "within", tolerance=0.05, share=0.8), [0.0, 0.0, 0.0, 0.0, 0.9], True),
        (Check("gap", "within", tolerance=0.05, share=0.8), [0.0, 0.0, 0.0, 0.9], False),
        (Check("gap", "within", 0.1, 0.05), [0.06, 0.14], True),
        (Check("gap", "within", 0.1, 0.05), [0.1, 0.16], False),
        (Check("gap", "at least", 0.1, 0.05), [0.06], True),
        (Check("gap", "at least", 0.1), [0.2, 0.09], False),
        (Check("gap", "at most", 0.1, 0.05), [0.14, 0.0], True),
        (Check("gap", "at most", 0.1), [0.11], False),
        (Check("t0", "rises"), [1.0, 1.0, 3.0], False),
        (Check("t0", "rises"), [1.0, 3.0, 2.0], False),
        (Check("t0", "rises", tolerance=1.5), [1.0, 3.0, 2.0], True),
        (Check("t0", "falls"), [3.0, 2.0], True),
        (Check("t0", "falls"), [2.0, 3.0], False),
    ],
)
def test_checks_are_what_they_say(check, values, met):
    assert check.met(values) is met


@unrendered
def test_what_is_missing_is_named_and_the_rest_is_drawn(tmp_path):
    own = [config(trial=trial) for trial in range(5)]
    twins = [replace(c, world="ideal") for c in own]
    for real, ideal in zip(own[:2], twins[:2], strict=True):
        write_run(tmp_path / f"real-{real.trial}", real, rows_of(real))
        write_run(tmp_path / f"ideal-{ideal.trial}", ideal, rows_of(ideal))
    half = write_run(tmp_path / "real-2", own[2], rows_of(own[2]), finished=False).folder
    rows = (half / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (half / "metrics.jsonl").write_bytes(b"".join(rows[:3]) + rows[3][:20])
    write_run(tmp_path / "real-3", own[3], rows_of(own[3]), ended="not_finite")
    (tmp_path / "real-4").mkdir()
    (tmp_path / "real-4" / "config.json").write_text('{"config":')
    experiment(tmp_path, [Group("net", tuple(own), tuple(twins[:2]))])
    entries, written = report(tmp_path)
    assert len(entries["fig"].missing) == 3
    unfinished, diverged, unread = entries["fig"].missing
    assert "trial 2: unfinished, last measured at 41 of 401 updates" in unfinished
    assert "trial 3: diverged at 401 updates" in diverged
    assert unread == "net: Real World, trial 4: not found"
    assert "real-4/config.json is not valid JSON" in written.problems[0]
    assert entries["fig"].svgs
    assert len(entries["fig"].measured[0].found.real) == 2
    assert "3 runs are missing" in written.page.read_text()


@unrendered
@pytest.mark.parametrize("world", ["real", "ideal"])
def test_one_world_without_the_other_is_drawn_and_said(tmp_path, world):
    own = config(world=world)
    write_run(tmp_path / "run", own, rows_of(own))
    entries, _ = report(tmp_path)
    assert f"{world.capitalize()} World only, no bootstrap error" in entries["curves"].sentence
    assert entries["curves"].svgs
    assert entries["curves"].verdict.status == "open"


@unrendered
def test_a_t0_that_no_trial_reached_is_said(tmp_path):
    write_pair(tmp_path, config(), t0=5_000)
    entries, _ = report(tmp_path)
    assert (
        "No trial reached T0: the worlds are compared at the last step"
        in entries["curves"].sentence
    )


@unrendered
def test_different_configs_side_by_side_are_kept_apart_and_named(tmp_path):
    for trial, rate in enumerate((0.1, 0.2)):
        own = config(learning_rate=rate, trial=trial)
        write_run(tmp_path / "out" / f"real-{trial}", own, rows_of(own))
    entries, written = report(tmp_path)
    assert [one.label for one in entries["curves"].measured] == ["lr 0.1", "lr 0.2"]
    assert written.problems == (
        f"{tmp_path / 'out'} holds runs of different configs, kept apart here: they differ in "
        "learning_rate",
    )


@unrendered
def test_a_run_that_is_there_twice_is_a_duplicate_and_not_missing(tmp_path):
    own = config()
    for name in ("first", "second"):
        write_run(tmp_path / name, own, rows_of(own))
    experiment(tmp_path, [Group("net", (own,))])
    entries, written = report(tmp_path)
    assert entries["fig"].missing == []
    assert entries["fig"].duplicates == [
        f"net: Real World, trial 0: {tmp_path / 'first'} is used, {tmp_path / 'second'} left out"
    ]
    assert "1 run is there more than once" in written.page.read_text()


@unrendered
def test_a_claim_up_to_t0_is_checked_at_every_log_point(tmp_path):
    own = config()
    twin = replace(own, world="ideal")

    def rows(step):  # equal at T0, far apart halfway
        row = rows_of(own, gap=0.0)(step)
        return row | {"test_soft_error": row["test_soft_error"] + 0.1 * (step == 100)}

    write_run(tmp_path / "real-0", own, rows)
    write_run(tmp_path / "ideal-0", twin, rows_of(twin))
    entries, _ = report(tmp_path, tolerance=0.05)
    [(text, state)] = entries["curves"].verdict.lines
    assert (state, entries["curves"].measured[0].get("gap")) == ("fails", pytest.approx(0))
    assert text.endswith("at most 0.05: 0.100; a single trial, no interval")


@unrendered
def test_the_spread_between_trials_stands_beside_the_largest_gap(tmp_path):
    checks = (Check("largest", "at most", 0.03),)
    experiment(tmp_path, [group(tmp_path, trials=(0, 1))], checks=checks)
    entries, _ = report(tmp_path)
    [(text, _)] = entries["fig"].verdict.lines
    assert "over 2 trials; two Real trials differ by up to 0.050" in text  # 0.05 of 1 at step 0


@unrendered
def test_the_page_states_how_the_runs_were_trained(tmp_path):
    fields = {"learning_rate": 0.02, "momentum": 0.9, "schedule": "constant", "batch_size": 64}
    groups = [group(tmp_path, "a", n=500, **fields), group(tmp_path, "b", n=1_000, **fields)]
    experiment(tmp_path, groups)
    entries, written = report(tmp_path)
    assert entries["fig"].setup == {
        "n": "500; 1,000",
        "batch size": "64",
        "steps": "401",
        "learning rate": "0.02",
        "schedule": "constant",
        "optimizer": "sgd, momentum 0.9",
        "T0 read from": "all n samples, fixed crops",
        "test images": "the first 10,000",
    }
    assert "learning rate 0.02 · schedule constant" in written.page.read_text()


def test_names_cannot_write_html(tmp_path):
    hostile = 'x"><script>alert(1)</script>$\\frac{'
    groups = (group(tmp_path, "net"),)
    with pytest.raises(ValueError, match="part of file names"):
        Experiment('a"><script>', hostile, "curves", groups)
    made = Experiment("a", hostile, "curves", groups, claim=hostile)
    made = replace(made, groups=(replace(made.groups[0], label=hostile),), note=hostile)
    write_experiment(made, tmp_path)
    entries, written = report(tmp_path)
    page = Page(written.page.read_text())
    assert [entry.svgs != [] for entry in entries.values()] == [True]
    assert "script" not in page.tags
    assert len(page.ids) == len(set(page.ids))


@unrendered
def test_worlds_on_different_data_are_not_compared(tmp_path):
    own = config()
    write_run(tmp_path / "real-0", own, rows_of(own))
    twin = replace(own, world="ideal")
    other = {**DATA, "train": "c" * 64}
    write_run(tmp_path / "ideal-0", twin, rows_of(twin), data=other)
    entries, _ = report(tmp_path)
    assert len(entries["curves"].measured) == 2
    experiment(tmp_path, [Group("net", (own,), (twin,))])
    entries, _ = report(tmp_path)
    assert "on other data than the rest" in entries["fig"].missing[0]


@unrendered
def test_one_ideal_world_serves_several_n(tmp_path):
    for n, t0 in ((500, 100), (1_000, 200), (2_000, 300)):
        own = config(n=n)
        write_run(tmp_path / str(n) / "real-0", own, rows_of(own, t0=t0))
    twin = config(n=50_000, world="ideal")
    write_run(tmp_path / "ideal-0", twin, rows_of(twin))
    entries, _ = report(tmp_path)
    assert list(entries) == ["curves", "scatter", "samples-2"]
    sizes = entries["samples-2"]
    assert sizes.verdict.status == "holds"
    assert "T0 goes as n^0.79" in sizes.sentence  # log(301 / 101) / log(4)
    assert "goes as t^-0.25" in sizes.sentence


def noisy_group(root):
    """A clean and a noisy Real World."""
    clean, noisy = config(), config(label_noise="symmetric:0.2")
    write_run(root / "clean", clean, lambda step: {"train_clean_error": 0.0, "test_error": 0.1})
    row = {"train_true_error": 0.1, "train_corrupted_true_error": 0.3, "test_error": 0.2}
    write_run(root / "noisy", noisy, lambda step: row)
    return Group("net", (clean, noisy))


def pair_group(root):
    worlds = [config(world=w, label_noise="pairs:0.3:3>5") for w in ("real", "ideal")]
    for own, share in zip(worlds, (0.3, 0.2), strict=True):
        row = {"test_partner_share": share, "test_partner_mass": 0.3, "train_error": 0.0}
        row |= {f"test_confusion_{a}_{b}": (1 - share) * (a == b) + share / 10
                for a in range(10) for b in range(10)}  # fmt: skip
        write_run(root / own.world, own, lambda step, row=row: row)
    return Group("net", worlds[:1], worlds[1:])


def stopping_group(root):
    """A Real World whose wrong labels are fitted at step 300, the others at 100."""
    own = config(label_noise="symmetric:0.2", validation=100, patience=2, n=1_280)

    def row(step):  # an epoch is 10 updates; the validation error rises from step 200 on
        return {
            "test_error": 0.2 + abs(step - 200) / 1_000,
            "validation_error": 0.4 + abs(step - 200) / 1_000,
            "train_error": 0.5,
            "train_kept_error": float(step < 100),
            "train_corrupted_error": float(step < 300),
            "train_corrupted_true_error": 0.5,
        }

    write_run(root / "real", own, row)
    return Group("net", (own,))


@unrendered
def test_early_stopping_is_read_off_the_validation_error_in_epochs(tmp_path):
    checks = (Check("gained", "at least", 0.15), Check("fitted_later", "within", 2.98, 0.01))
    experiment(tmp_path, [stopping_group(tmp_path)], "stopping", checks=checks, metric="error")
    entries, _ = report(tmp_path)
    (one,) = entries["fig"].measured
    assert one.get("stopped_at") == 221  # the first log point two epochs past step 200
    assert one.get("gained") == pytest.approx(0.4 - 0.22)
    assert one.get("fitted_later") == pytest.approx(301 / 101)
    assert entries["fig"].verdict.status == "holds"
    assert len(entries["fig"].svgs) == 2


@unrendered
def test_class_pairs_are_judged_by_share_mass_and_the_other_classes(tmp_path):
    checks = (
        Check("pairs_train", "at most", 0.01),
        Check("partner_real", "within", 0.3, 0.01),
        Check("mass_ideal", "within", 0.3, 0.01),
        Check("others_gap", "at most", 0.05),  # it is 0.09, on the diagonal
    )
    experiment(tmp_path, [pair_group(tmp_path)], "pairs", checks=checks)
    entries, _ = report(tmp_path)
    assert [state for _, state in entries["fig"].verdict.lines] == ["holds"] * 3 + ["fails"]
    assert entries["fig"].measured[0].get("others_gap") == pytest.approx(0.09)


@unrendered
def test_tables_are_means_of_trials_and_figures_medians(tmp_path):
    values = (0.04, 0.04, 0.04, 0.06, 0.12)
    for trial, value in enumerate(values):
        own = config(trial=trial)
        write_run(tmp_path / f"real-{trial}", own, lambda step, v=value: {"test_error": v})
    runs = Group("net", tuple(config(trial=trial) for trial in range(5)))
    for center, expected in (("mean", 0.06), ("median", 0.04)):
        experiment(tmp_path, [runs], "table", center=center)
        entries, written = report(tmp_path)
        assert entries["fig"].measured[0].get("test_error") == pytest.approx(expected)
        assert f"{center}s over trials" in written.page.read_text()


@unrendered
def test_a_verdict_is_sure_open_or_of_a_single_trial(tmp_path):
    gaps = (0.00, 0.02, 0.04, 0.06, 0.08)  # their median is 0.04
    for trial, gap in enumerate(gaps):
        write_pair(tmp_path / str(trial), config(), trials=(trial,), gap=gap)
    worlds = [[config(world=w, trial=t) for t in range(5)] for w in ("real", "ideal")]
    several = Group("net", *map(tuple, worlds))
    alone = Group("first", *(tuple(configs[:1]) for configs in worlds))
    checks = tuple(
        Check("gap", "at most", value, groups=(label,))
        for label, value in (("net", 0.1), ("net", 0.041), ("net", -0.01), ("first", 0.01))
    )
    experiment(tmp_path, [several, alone], checks=checks)
    entries, _ = report(tmp_path)
    lines = entries["fig"].verdict.lines
    assert [state for _, state in lines] == ["holds", "open", "fails", "holds"]
    assert re.search(r"met in \d\d% of 1,000 resamplings", lines[1][0])
    assert lines[3][0].endswith("a single trial, no interval")


def test_groups_are_compared_with_their_counterparts(tmp_path):
    groups = [
        replace(group(tmp_path, label, gap=gap, n=n), drawn=label != "c")
        for label, gap, n in (("a", 0.05, 1_000), ("b", 0.02, 2_000), ("c", 0.02, 3_000))
    ]
    checks = (
        Check("gap", "above", groups=("a", "b"), others=("c", "c"), tolerance=0.001),
        Check("gap", "near", tolerance=0.01, groups=("a",), others=("c",)),
        Check("gap", "at most", 0.03, groups=("c",)),
    )
    experiment(tmp_path, groups, "scatter", checks=checks, zoom=0.3)
    entries, written = report(tmp_path)
    lines = entries["fig"].verdict.lines
    assert [state for _, state in lines] == ["holds", "fails", "holds"]
    assert "bootstrap error: a near c (tolerance 0.01): 0.050 and 0.020" in lines[1][0]
    svg = (written.page.parent / "figures" / "fig.svg").read_text()
    assert "(b) soft-error below 0.3" in svg
    document = json.loads((written.page.parent / "points" / "fig.json").read_text())
    drawn = {point["group"]: point for point in document["points"]}
    assert sorted(drawn) == ["a", "b"]  # c is only measured
    assert drawn["a"]["x"] == pytest.approx(drawn["a"]["y"] + 0.05)  # x is Real, y Ideal


@pytest.mark.parametrize(
    "kind, make, told, quantity",
    [
        ("curves", group, "test soft-error 0.292", "test_soft_error"),
        ("metrics", group, "test soft-error 0.292", "test_loss"),
        ("scatter", group, "bootstrap error of +0.020", "soft_error"),
        ("samples", group, "goes as t^-0.25", "t0"),
        ("sizes", group, "bootstrap error of +0.020", "error:gap"),
        ("decompositions", group, "= Ideal 0.272 + bootstrap error +0.020", "gap"),
        ("stopping", group, "at T0 (201 updates)", "stopped"),
        ("table", group, "0.224 on its own test split", "test_error"),
        ("rrm", noisy_group, "robustness 0.100 + memorization 0.200 + rationality 0.000", "robust"),
        ("pairs", pair_group, "30.0% in the Real World and 20.0% in the Ideal", "partner_share"),
    ],
)
def test_every_kind_is_drawn_told_and_written_as_points(tmp_path, kind, make, told, quantity):
    experiment(tmp_path, [make(tmp_path)], kind)
    entries, written = report(tmp_path)
    assert told in entries["fig"].sentence
    out = written.page.parent
    assert (out / "figures" / "fig.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "figures" / "fig.svg").read_text().startswith("<?xml")
    document = json.loads((out / "points" / "fig.json").read_text())
    with (out / "points" / "fig.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(document["points"]) > 0
    assert any(quantity in row["quantity"] for row in rows)
    assert [float(row["y"]) for row in rows] == [point["y"] for point in document["points"]]


@pytest.mark.parametrize("kind", ["scatter", "decompositions", "rrm", "pairs", "table", "samples"])
def test_an_experiment_without_a_run_has_no_figure_but_its_missing_runs(tmp_path, kind):
    own = config(label_noise="symmetric:0.2") if kind == "rrm" else config()
    experiment(tmp_path, [Group("net", (own,))], kind, checks=(Check("gap", "within"),))
    entries, written = report(tmp_path)
    assert entries["fig"].svgs == []
    assert entries["fig"].sentence == "Not drawn: fig has no finished run to draw."
    assert entries["fig"].missing
    assert entries["fig"].verdict.status == "open"
    page = written.page.read_text()
    assert page.count("has no finished run to draw") == 2  # in the overview and in its section
    assert "They are close." not in page
    assert "is drawn from the rest" not in page


def test_the_page_needs_nothing_else(tmp_path):
    experiment(tmp_path, [group(tmp_path, "<net> & co"), group(tmp_path, "other", n=7)])
    _, written = report(tmp_path)
    text = written.page.read_text()
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert "script" not in page.tags
    assert "&lt;net&gt; &amp; co" in text
    outside = [link for link in page.links if not link.startswith(("#", "figures/", "points/"))]
    assert outside == ["data:,"]
    targets = [link[1:] for link in page.links if link.startswith("#")]
    assert set(targets) <= set(page.ids)
    references = re.findall(r"url\(#([^)]+)\)", text)
    assert references
    assert set(references) <= set(page.ids)
    svg = text[text.index("<figure") : text.index("</figure>")]
    assert not [color for color in THEME if color in svg]  # every color follows the theme
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)  # and none was left out of it


def test_equal_runs_give_equal_files(tmp_path):
    experiment(tmp_path / "runs", [group(tmp_path / "runs")], command="worlds-experiment run fig")
    files = []
    for name in ("first", "second"):
        write_report([tmp_path / "runs"], tmp_path / name)
        paths = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        files.append([(path.relative_to(tmp_path / name), path.read_bytes()) for path in paths])
    assert files[0] == files[1]


@unrendered
def test_the_toy_is_reported_from_its_run_folders(tmp_path):
    write_toys(tmp_path, trials=3)
    groups = [
        Group(
            f"{toy.case}, tail {toy.tail_variance:g}",
            tuple(config_of(toy, "real", trial=trial) for trial in range(3)),
            (config_of(toy, "ideal"),),
        )
        for toy in toys()
    ]
    checks = (
        Check("gap", "at least", 0.4, groups=("A, tail 0.1",)),
        Check("gap", "at most", 0.15, groups=("B, tail 0.01",)),
    )
    experiment(tmp_path, groups, metric="loss", checks=checks)
    entries, _ = report(tmp_path)
    assert entries["fig"].verdict.status == "holds"
    assert not entries["fig"].missing
    assert "hence no T0" in entries["fig"].sentence


def test_an_experiment_is_read_as_it_was_written(tmp_path):
    made = experiment(
        tmp_path,
        [replace(group(tmp_path), panel="p", series="s", data="made")],
        checks=(Check("gap", "within", 0.0, 0.03, ("net",)),),
        scale="small",
        note="n",
    )
    assert read_experiment(tmp_path / "fig.experiment.json") == made


def test_the_command_prints_a_line_a_figure_and_json_last(tmp_path, capsys):
    write_pair(tmp_path / "runs", config())
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("holds  curves: net: test soft-error")
    assert json.loads(lines[-1]) == {
        "page": str(tmp_path / "out" / "index.html"),
        "figures": 1,
        "holds": 1,
        "fails": 0,
        "open": 0,
        "missing": 0,
    }


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere"], "nowhere is not a directory"),
        (["empty"], "no run directory at or below empty; worlds-train makes them"),
        (["runs", "--only", "fig9"], "no experiment fig9 here; there are: curves"),
        (["runs", "--tolerance", "2"], "--tolerance must be between 0 and 1, got 2.0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_pair(tmp_path / "runs", config())
    assert main([*arguments, "--out", "out"]) == 2
    assert capsys.readouterr().err == f"worlds-report: {message}\n"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda c: Group("net"), "has no run"),
        (lambda c: Group("net", ideal=(c,)), "lists a run of real among ideal"),
        (lambda c: Check("gap", "close"), "relation must be one of within"),
        (lambda c: Check("gap", "near"), "take one of `others` for each of `groups`"),
        (lambda c: Check("gap", "within", tolerance=-1), "tolerance must be 0 or more"),
        (lambda c: Experiment("a/b", "", "curves", (Group("net", (c,)),)), "part of file names"),
        (lambda c: Experiment("a", "", "pie", (Group("net", (c,)),)), "kind must be one of curves"),
        (lambda c: Experiment("a", "", "curves", (Group("x", (c,)),) * 2), "different labels"),
        (
            lambda c: Experiment(
                "a",
                "",
                "curves",
                (Group("x", (c,)),),
                checks=(Check("gap", "within", groups=("y",)),),
            ),
            "names no group of it",
        ),
    ],
)
def test_an_experiment_that_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(config())


@unrendered
def test_a_damaged_experiment_is_a_problem_and_not_the_end(tmp_path):
    write_pair(tmp_path, config())
    (tmp_path / "a.experiment.json").write_text('{"format": 1}')
    (tmp_path / "b.experiment.json").write_text("[")
    _, written = report(tmp_path)
    assert len(written.problems) == 2
    assert all("experiment.json" in problem for problem in written.problems)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_opens_the_page_without_a_word(tmp_path):
    experiment(tmp_path, [group(tmp_path)])
    _, written = report(tmp_path)
    shot = tmp_path / "shot.png"
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    done = subprocess.run(
        [*command, f"--screenshot={shot}", f"file://{written.page}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert shot.stat().st_size > 10_000
    assert "CONSOLE" not in done.stderr


def test_a_figure_against_a_number_has_a_line_a_series_and_a_sentence_of_its_ends(tmp_path):
    made = [
        replace(group(tmp_path, f"K = {k}", gap=gap, n=n), series="all steps", x=k)
        for k, gap, n in ((1, 0.0, 1_000), (10, 0.02, 2_000), (100, 0.05, 3_000))
    ]
    checks = (Check("final_gap", "rises"),)
    panels = (("final_real", "final_ideal"), ("final_gap",))
    experiment(tmp_path, made, "against", axis="log uses", panels=panels, checks=checks)
    entries, _ = report(tmp_path)
    assert entries["fig"].verdict.status == "holds"
    assert "Against the uses" in entries["fig"].sentence
    assert "last step of all steps 0.000 at 1 and 0.050 at 100" in entries["fig"].sentence
    with (tmp_path / "report" / "points" / "fig.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["quantity"] == "final_gap"]
    assert [(float(row["x"]), round(float(row["y"]), 6)) for row in rows] == [
        (1, 0.0), (10, 0.02), (100, 0.05)
    ]  # fmt: skip


@unrendered
def test_a_figure_of_sizes_has_both_gaps_with_their_intervals_and_what_is_surer(tmp_path):
    made = [
        replace(group(tmp_path, f"net, n = {n}", (0, 1, 2), gap, n=n), panel="net")
        for n, gap in ((1_000, -0.03), (2_000, 0.0))
    ]
    experiment(tmp_path, made, "sizes", checks=(Check("surer", "at least", 0.0),))
    entries, written = report(tmp_path)
    small, large = entries["fig"].measured
    for one in (small, large):
        both = zip(one.values["error:gap"], one.values["soft_error:gap"], strict=True)
        assert one.values["surer"] == [error - soft for error, soft in both]
        low, high = one.interval("gap")
        assert min(one.values["gap"]) <= low <= one.get("gap") <= high <= max(one.values["gap"])
    document = json.loads((written.page.parent / "points" / "fig.json").read_text())
    gaps = [p for p in document["points"] if p["quantity"] == "soft_error:gap"]
    assert [(p["x"], round(p["y"], 6)) for p in gaps] == [(1_000, -0.03), (2_000, 0.0)]
