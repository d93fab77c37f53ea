"""Every command and every line of Python in the README is run."""

import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from tests.worlds.data.test_stores import write_cifar10

REPO = Path(__file__).resolve().parents[1]
README = (REPO / "README.md").read_text()
SCRIPTS = dict(
    re.findall(r'^([\w-]+) = "([\w.]+):main"$', (REPO / "pyproject.toml").read_text(), re.MULTILINE)
)
# What CI runs itself, and what asks for a GPU, for weights or for ImageNet, which are not here.
ELSEWHERE = ("make ", "cifar5m-generate --n 6000000", "dogbird-build ")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    return [line for line in lines if not line.startswith(ELSEWHERE)]


def bring_what_the_readme_names(folder: Path) -> None:
    """Six small parts in the released form, CIFAR-10's own, and a timm folder."""
    random = np.random.default_rng(0)
    for part in range(6):
        images = random.integers(0, 256, (20, 32, 32, 3), np.uint8)
        np.savez(folder / f"part{part}.npz", X=images, Y=random.integers(0, 10, 20))
    write_cifar10(folder / "path" / "to" / "cifar10")
    shutil.copytree(REPO / "cifar5m" / "tiny" / "labeler", folder / "path" / "to" / "timm-folder")


def test_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bring_what_the_readme_names(tmp_path)
    assert len(commands()) >= 15
    for line in commands():
        program, *options = shlex.split(line)
        if "--n" in options:  # the same commands on fewer images
            options[options.index("--n") + 1] = "50" if program.startswith("worlds") else "64"
        if program == "worlds-train":
            options[options.index("--steps") + 1] = "3"
        assert import_module(SCRIPTS[program]).main(options) == 0, line
    for block in blocks("python"):
        small = re.sub(r"\bn=\d+", "n=50", block)
        small = re.sub(r"steps=\d+", "steps=1", small)
        exec(compile(small, "README.md", "exec"), {})


def test_make_targets_of_the_readme_exist():
    targets = re.findall(r"^make (\w+)", README, re.MULTILINE)
    makefile = (REPO / "Makefile").read_text()
    assert targets == ["generate", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("program", SCRIPTS)
def test_every_program_has_help(program, capsys):
    with pytest.raises(SystemExit) as stop:
        import_module(SCRIPTS[program]).main(["--help"])
    assert stop.value.code == 0
    assert program in capsys.readouterr().out


def test_files_that_the_readme_shows_exist():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (REPO / path).is_file(), path
