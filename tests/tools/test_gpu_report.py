"""The report's bookkeeping, with small commands in place of tests and benchmarks."""

import json

import pytest
import torch

from tools import gpu_report
from tools.gpu_report import Part, main, page, run_part

WARNING = "RuntimeWarning: Resident pool by Triton failed its check on H200, PyTorch is used"
PARTS = (
    Part("right", "Does it pass?", ("-c", f"print('{WARNING}'); print('3 passed')")),
    Part("wrong", "Does it fail?", ("-c", "print('a | b'); raise SystemExit(3)")),
    Part("fast speed", "How fast?", ("-c", "print('a table'); print('{\"rate\": 5}')")),
)


@pytest.fixture
def machine(monkeypatch):
    """A machine that has a GPU."""
    monkeypatch.setattr(gpu_report, "PARTS", PARTS)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(gpu_report, "device_name", lambda device: "NVIDIA H200, driver 570.1")


def test_a_report_says_what_passed_failed_and_fell_back(machine, tmp_path, capsys):
    assert main(["--out", str(tmp_path)]) == 1
    text = (tmp_path / "report.md").read_text()
    assert "- GPU: NVIDIA H200, driver 570.1" in text
    assert "| right | Does it pass? | passed |" in text
    assert "| wrong | Does it fail? | failed (exit code 3) |" in text
    assert f"**right fell back**: {WARNING}" in text
    assert '"rate": 5' in text
    assert "a \\| b" in text
    found = json.loads((tmp_path / "report.json").read_text())["parts"]
    assert {name: part["code"] for name, part in found.items()} == {
        "right": 0,
        "wrong": 3,
        "fast speed": 0,
    }


def test_the_same_command_goes_on_with_what_has_not_passed(machine, tmp_path, capsys):
    main(["--out", str(tmp_path)])
    capsys.readouterr()
    main(["--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "Does it fail?" in said
    assert "Does it pass?" not in said
    assert main(["--out", str(tmp_path), "--only", "right"]) == 0
    assert "Does it pass?" in capsys.readouterr().out


def test_a_part_that_takes_too_long_is_stopped(tmp_path, machine):
    slow = Part("slow", "Does it end?", ("-c", "import time; time.sleep(60)"))
    found = run_part(slow, tmp_path, limit=0.5)
    assert found["code"] is None
    assert found["seconds"] < 30
    assert "failed" not in page({}, {"slow": found})
    assert "stopped after ten minutes" in page({}, {"slow": found})


def test_without_a_gpu_one_line_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main(["--out", str(tmp_path / "report")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "no usable GPU" in line
    assert "cpu" not in line
    assert not (tmp_path / "report").exists()


def test_an_unknown_part_is_refused_with_the_known_ones(machine, tmp_path, capsys):
    assert main(["--out", str(tmp_path), "--only", "everything"]) == 2
    assert "no part 'everything'; the parts are right, wrong, fast speed" in capsys.readouterr().err


def test_every_command_of_the_report_exists():
    for part in gpu_report.PARTS:
        paths = [word for word in part.command if "/" in word]
        assert paths
        assert all((gpu_report.REPO / path).exists() for path in paths)
