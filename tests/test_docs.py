"""Every command and every line of Python in the README and in docs/ is run."""

import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.cifar5m.tiny_networks import save_labeler, save_unet
from tests.processes import one_worker_is_a_thread  # noqa: F401
from tests.worlds.data.test_stores import write_cifar10

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
SCRIPTS = dict(
    re.findall(r'^([\w-]+) = "([\w.]+):main"$', (REPO / "pyproject.toml").read_text(), re.MULTILINE)
)
# What CI runs itself, and what asks for a GPU, for weights or for ImageNet, which are not here.
ELSEWHERE = (
    *("make ", "pip ", "python ", "cifar5m-generate --n 6000000", "dogbird-build "),
    *("sbatch ", "torchrun ", "examples/", "ray "),
)
SMALL = {"--n": "50", "--steps": "1"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands(page: Path) -> list[str]:
    """Commands of code blocks, and those of the README's table of tasks."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines() if line.strip()]
    lines += re.findall(r"^\| [^|]+ \| `([\w-]+ [^`|]*|worlds-models)` \|", page.read_text(), re.M)
    return [line for line in lines if not line.startswith(ELSEWHERE)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """What the pages speak of: a small set and its pack, released parts, CIFAR-10, runs."""
    folder = tmp_path_factory.mktemp("docs")
    random = np.random.default_rng(0)
    for part in range(6):
        images = random.integers(0, 256, (20, 32, 32, 3), np.uint8)
        np.savez(folder / f"part{part}.npz", X=images, Y=random.integers(0, 10, 20))
    write_cifar10(folder / "path" / "to" / "cifar10")
    shutil.copytree(REPO / "cifar5m" / "tiny" / "labeler", folder / "path" / "to" / "timm-folder")
    unet = save_unet(folder / "unet", num_class_embeds=11)
    networks = f"--generator {unet} --labeler {save_labeler(folder / 'labeler')}"
    small = "--n 170 --split train=132,test=38 --steps 2 --labels requested --quiet"
    run_command(f"cifar5m-generate --recipe tiny {networks} --out out/tiny {small}", folder)
    run_command("cifar5m-pack out/tiny --quiet", folder)
    return folder


@pytest.fixture(scope="module")
def seen() -> set[str]:
    """The commands that ran: several pages have the same ones."""
    return set()


def run_command(line: str, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        program, *options = shlex.split(line.replace("{0..5}", "0"))
        assert import_module(SCRIPTS[program]).main(options) == 0, line


# webdataset leaves the last tar to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_runs_from_top_to_bottom(page, workplace, seen, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    for line in commands(page):
        program, *options = shlex.split(line)
        for name, value in SMALL.items():  # the same commands on less
            if name in options and program == "worlds-train":
                options[options.index(name) + 1] = value
        small = shlex.join([program, *options])
        if program == "cifar5m-generate" and "--dry-run" not in options:
            continue  # the workplace has it; `make generate` runs it in CI
        if program == "cifar5m-import":
            small = "cifar5m-import part0.npz part1.npz part5.npz --out released --pack"
        if small not in seen:
            run_command(small, workplace)
            seen.add(small)
    names: dict = {"__name__": "__main__"}  # a page's blocks go on from each other
    for block in blocks(page, "python"):
        small = re.sub(r"steps=\d+", "steps=1", re.sub(r"\bn=\d+", "n=50", block))
        small = small.replace("slice(0, 400), test=slice(400,", "slice(0, 100), test=slice(100,")
        small = small.replace(
            '"out/tiny", recipe="tiny-conditional", n=50',
            '"out/py", recipe="tiny-conditional", steps=1, n=10',
        )
        if "import jax" in block:  # its threads are not for a process that forks in other tests
            if find_spec("jax") is not None:
                subprocess.run([sys.executable, "-c", small], check=True)
            continue
        exec(compile(small, page.name, "exec"), names)


def test_make_targets_of_the_readme_exist():
    targets = re.findall(r"^make (\w+)", (REPO / "README.md").read_text(), re.MULTILINE)
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_and_links_to_files_exist(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_fits_a_minute():
    assert len((REPO / "README.md").read_text().splitlines()) <= 150
