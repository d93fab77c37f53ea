"""Sample sheets: a run that trains nothing, and its figure."""

from dataclasses import replace

import numpy as np

from tests.worlds.small_runs import small_data
from worlds.experiments.sheets import IMAGES, LABELS, config_of, run_sheet
from worlds.experiments.spec import Check, Experiment, Group, write_experiment
from worlds.report.write import write_report
from worlds.training.run_folder import read_run


def test_a_sheet_holds_samples_by_class_and_is_drawn_beside_another(tmp_path):
    first, config = small_data(), config_of(40)
    split, other = first.train, replace(first.train, fingerprint="f" * 64)
    for name, train, accuracy in (("one", split, 0.985), ("two", other, None)):
        data = replace(first, train=train, cifar10=first.test)
        run_sheet(tmp_path / name, config, data, accuracy)
        # The same command again takes it for its own.
        assert not read_run(tmp_path / name).description.data.differences(data.describe())
    images, labels = (np.load(tmp_path / "one" / file) for file in (IMAGES, LABELS))
    assert images.shape == (40, 32, 32, 3)
    assert sorted(labels) == list(labels)
    groups = (
        Group("one", (config,), data=split.fingerprint),
        Group("two", (config,), data=other.fingerprint),
    )
    checks = (
        Check("classes_shown", "at least", 10),
        Check("largest_class", "at most", 0.1),  # of 1,200 drawn evenly, some class has more
        Check("labeler_accuracy", "within", 0.985, 0.005, ("one",)),
    )
    write_experiment(Experiment("fig19", "Samples", "sheet", groups, checks=checks), tmp_path)
    written = write_report([tmp_path], tmp_path / "report")
    (entry,) = written.entries
    assert [state for _, state in entry.verdict.lines] == ["holds", "fails", "holds"]
    assert "one: 10 classes shown" in entry.sentence
    assert entry.missing == []
    svg = (tmp_path / "report" / "figures" / "fig19.svg").read_text()
    assert svg.count("<image") == 2
    (tmp_path / "two" / IMAGES).unlink()
    (entry,) = write_report([tmp_path], tmp_path / "again").entries
    assert "images.npy cannot be read" in entry.sentence
