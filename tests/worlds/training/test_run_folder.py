"""Run directories: how they read, and those of an earlier version."""

import json

from tests.worlds.made_runs import config, write_run
from worlds.training.run_folder import CONFIG, read_run


def test_a_run_is_shown_in_one_short_line(tmp_path):
    run = write_run(tmp_path, config(), lambda step: {"test_error": 0.5})
    assert repr(run) == f"Run({tmp_path}, net, real world, {len(run.rows)} rows, finished)"
    (tmp_path / "summary.json").unlink()
    assert "unfinished" in repr(read_run(tmp_path))


def test_a_run_of_an_earlier_version_is_read_under_its_fingerprint(tmp_path):
    run = write_run(tmp_path, config(normalize="unit"), lambda step: {"test_error": 0.5})
    described = json.loads((tmp_path / CONFIG).read_text())
    described["config"]["normalise"] = described["config"].pop("normalize")
    (tmp_path / CONFIG).write_text(json.dumps(described))
    earlier = read_run(tmp_path)
    assert earlier.config == run.config
    assert earlier.config.fingerprint() == described["fingerprint"]
