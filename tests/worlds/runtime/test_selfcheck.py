"""Fast paths that pass, differ or fail, on the CPU in place of a GPU."""

import warnings

import pytest
import torch

from worlds.runtime import selfcheck
from worlds.runtime.selfcheck import passes

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """A cache and a process that have checked nothing."""
    monkeypatch.setenv("DEEP_BOOTSTRAP_CACHE", str(tmp_path))
    monkeypatch.setattr(selfcheck, "_known", {})


def new_process(monkeypatch):
    monkeypatch.setattr(selfcheck, "_known", {})


def fails():
    raise OSError("no C compiler\nat all")


def never():
    raise AssertionError("checked again")


def test_a_path_that_passes_is_not_checked_again(monkeypatch):
    assert passes("fast", CPU, lambda: True, "slow")
    assert passes("fast", CPU, never, "slow")
    new_process(monkeypatch)
    assert passes("fast", CPU, never, "slow")


@pytest.mark.parametrize(
    "trial, reason", [(lambda: False, "differs"), (fails, "OSError: no C compiler.")]
)
def test_a_path_that_does_not_pass_is_said_once_a_process(trial, reason, monkeypatch):
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match=f"fast failed .* slow is used: .*{reason}") as told:
            assert not passes("fast", CPU, trial, "slow")
        assert "\n" not in str(told[0].message)
        assert f"torch {torch.__version__}" in str(told[0].message)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not passes("fast", CPU, never, "slow")
        new_process(monkeypatch)
    assert passes("fast", CPU, lambda: True, "slow")  # the failure was the moment's


@pytest.mark.parametrize("changed", ["device_name", "cuda_versions", "path"])
def test_another_device_version_or_path_is_checked_anew(changed, monkeypatch):
    assert passes("fast", CPU, lambda: True, "slow")
    other = {
        "device_name": lambda device: "H200, driver 1",
        "cuda_versions": lambda: {"cuda": "99"},
    }
    if changed in other:
        monkeypatch.setattr(selfcheck, changed, other[changed])
    name = "another" if changed == "path" else "fast"
    with pytest.warns(RuntimeWarning, match="differs"):
        assert not passes(name, CPU, lambda: False, "slow")


def test_a_check_leaves_the_generators_as_they_were():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert passes("fast", CPU, lambda: torch.rand(()) >= 0, "slow")
    assert torch.equal(torch.rand(3), expected)


def test_a_cache_that_cannot_be_written_only_checks_again(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("DEEP_BOOTSTRAP_CACHE", str(file))
    assert passes("fast", CPU, lambda: True, "slow")
