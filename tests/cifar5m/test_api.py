"""The Python API of cifar5m end to end: the same code as the commands, progress, no printing."""

import subprocess
import sys

import numpy as np
import pytest

import cifar5m
from tests.cifar5m.loopback_hub import hub_of_this_process, published
from tests.cifar5m.small_set import contents, shards_of
from worlds.data.stores import open_store
from worlds.formats.layout import CIFAR10_CLASSES
from worlds.formats.npz import read_members

HEAVY = ("torch", "numba", "numpy", "torchvision", "diffusers", "timm", "matplotlib", "PIL")


@pytest.fixture(scope="module")
def networks(unet_folder, labeler_folder):
    """Parameters of a run that takes milliseconds a shard."""
    return {
        "recipe": "tiny",
        "generator": str(unet_folder),
        "labeler": str(labeler_folder),
        "steps": 2,
        "micro_batch": 4,
        "shard_size": 6,
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def made(networks, tmp_path_factory):
    """20 images in four shards, and the progress of making them."""
    seen = []
    out = tmp_path_factory.mktemp("made") / "set"
    summary = cifar5m.generate(out, n=20, **networks, on_progress=seen.append)
    return summary, seen


def test_public_names_are_sorted_importable_and_documented():
    assert list(cifar5m.__all__) == sorted(cifar5m.__all__)
    for name in cifar5m.__all__:
        found = getattr(cifar5m, name)
        assert found.__name__ == name
        assert found is cifar5m.Progress or {"Args:", "Returns:", "Raises:"} <= set(
            found.__doc__.split()
        )
    assert set(cifar5m.__all__) <= set(dir(cifar5m))
    assert not hasattr(cifar5m, "dream")


@pytest.mark.parametrize("package", ["cifar5m", "dogbird", "worlds"])
def test_importing_a_package_is_fast_and_imports_nothing_heavy(package):
    code = (
        f"import sys, time; start = time.process_time(); import {package}; "
        f"print(time.process_time() - start, [m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, heavy = done.stdout.split(maxsplit=1)
    assert float(seconds) < 0.1
    assert heavy.strip() == "[]"


def test_generate_returns_what_the_directory_holds_and_prints_nothing(made, capfd):
    summary, seen = made
    assert (summary.images, summary.shards, summary.shards_planned) == (20, 4, 4)
    assert sum(summary.classes.values()) == 20
    assert list(summary.classes) == list(CIFAR10_CLASSES)
    assert summary.bytes == sum(path.stat().st_size for path in summary.path.glob("data/*.tar"))
    assert repr(summary).startswith(f"DatasetSummary({str(summary.path)!r}, 20 images in 4 shards")
    images = [progress for progress in seen if progress.phase == "generate"]
    assert [images[0].done, images[-1].done] == [0, pytest.approx(20)]
    assert {(progress.total, progress.unit) for progress in images} == {(20, "images")}
    assert capfd.readouterr() == ("", "")


def test_the_same_call_again_makes_nothing_and_reports_all_as_done(made, networks):
    summary, _ = made
    before, seen = contents(summary.path), []
    assert cifar5m.generate(summary.path, n=20, **networks, on_progress=seen.append) == summary
    assert contents(summary.path) == before
    assert [progress.done for progress in seen if progress.phase == "generate"] == [20]


def test_a_callback_that_raises_stops_the_run_and_the_next_call_resumes(networks, made, tmp_path):
    class Enough(Exception):
        pass

    def stop(progress):
        if progress.phase == "generate" and progress.done > 8:
            raise Enough

    with pytest.raises(Enough):
        cifar5m.generate(tmp_path / "set", n=20, **networks, on_progress=stop)
    kept = {path.name for path in tmp_path.glob("set/data/*.tar")}
    assert kept == {"train-00000-of-00003.tar"}
    cifar5m.generate(tmp_path / "set", n=20, **networks)
    tars = {path.name: path.read_bytes() for path in made[0].path.glob("data/*.tar")}
    assert {path.name: path.read_bytes() for path in tmp_path.glob("set/data/*.tar")} == tars


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n": 20, "shard_size": 0}, "shard_size must be at least 1, got 0"),
        ({"n": 20, "workers": 0}, "workers must be at least 1, got 0"),
        ({"n": 20, "split": {"train": 5}}, "split must add up to n=20, got 5"),
        ({"n": 20, "precision": "int4"}, "precision must be one of fp32, .*, got 'int4'"),
    ],
)
def test_errors_speak_of_parameters(parameters, message, networks, tmp_path):
    with pytest.raises(ValueError, match=f"^{message}"):
        cifar5m.generate(tmp_path / "set", **networks | parameters)
    assert not (tmp_path / "set").exists()


def test_damage_is_verified_repaired_and_gone(made, networks, tmp_path):
    folder = tmp_path / "set"
    cifar5m.generate(folder, n=20, **networks)
    whole, shard = contents(folder), shards_of(folder)[1]
    (folder / shard.tar).write_bytes(b"cut short")
    seen = []
    report = cifar5m.verify(folder, workers=1, on_progress=seen.append)
    assert not report.ok
    assert [progress.done for progress in seen] == [0, 6, 12, 17, 20]
    assert str(shard.tar) in repr(report)
    repair = cifar5m.repair(folder, report=report, device="cpu", workers=1)
    assert repair.ok
    assert [(each.name, each.repaired) for each in repair.outcomes] == [(shard.name, True)]
    tars = {name: data for name, data in contents(folder).items() if name.endswith(".tar")}
    assert tars.items() <= whole.items()


def test_a_repair_that_is_impossible_says_why_and_raises_nothing(folder):
    shard = shards_of(folder)[0]
    (folder / shard.tar).unlink()
    repair = cifar5m.repair(folder, device="cpu", workers=1)
    assert not repair.ok
    [outcome] = repair.outcomes
    assert not outcome.repaired
    assert str(outcome).startswith("cannot repair: ")


def test_a_second_labeling_is_compared_with_the_first(folder, labeler_folder):
    labeling = cifar5m.label(
        folder, str(labeler_folder), name="second", batch_size=8, precision="fp32", device="cpu"
    )
    assert labeling.is_complete
    assert labeling.path == folder / "labels" / "second"
    assert labeling.agreement.images == 19
    assert repr(labeling).endswith(
        f"4 of 4 shards, agreement {labeling.agreement.rate:.4f}, 0 problems)"
    )


def test_pack_and_import_are_inverse(folder, tmp_path):
    pack = cifar5m.pack(folder, workers=1)
    assert (pack.path, pack.written) == (folder.with_name("set.pack"), True)
    assert not cifar5m.pack(folder, workers=1).written
    back = cifar5m.import_dataset([pack.path], tmp_path / "back", shard_size=5, workers=1)
    assert (back.images, back.is_complete) == (19, True)
    for shard in shards_of(folder):
        assert (back.path / shard.tar).read_bytes() == (folder / shard.tar).read_bytes()


def test_npz_arrays_are_imported_with_progress(tmp_path):
    images = np.arange(7 * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(7, 32, 32, 3)
    np.savez(tmp_path / "some.npz", image=images, label=np.arange(7))
    assert {"image", "label"} <= set(read_members(tmp_path / "some.npz"))
    seen = []
    summary = cifar5m.import_dataset(
        [tmp_path / "some.npz"], tmp_path / "set", workers=1, on_progress=seen.append
    )
    assert summary.images == 7
    assert {progress.phase for progress in seen} == {"check", "import"}
    assert seen[-1].done == seen[-1].total == 7


def test_an_audit_returns_its_summary_and_where_the_page_is(folder, tmp_path, labeler_folder):
    from worlds.data.pack import write_pack
    from worlds.data.stores import ArrayStore

    rng = np.random.default_rng(5)
    train, test = (rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for n in (60, 20))
    store = ArrayStore(
        train, np.arange(60) % 10, test, np.arange(20) % 10, class_names=CIFAR10_CLASSES
    )
    write_pack(list(store.splits.values()), tmp_path / "cifar10.pack")
    seen = []
    found = cifar5m.audit(
        folder,
        cifar10=tmp_path / "cifar10.pack",
        labeler=str(labeler_folder),
        batch_size=8,
        device="cpu",
        on_progress=seen.append,
    )
    assert found.page == folder / "audit" / "index.html"
    assert found.page.is_file()
    assert found.report.is_file()
    assert (found.summary["images"], found.shards, found.problems) == (19, 4, ())
    assert {"fid", "kid"} <= set(found.not_measured)
    assert {"reference", "examine", "baseline"} <= {progress.phase for progress in seen}


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_dataset_is_published_to_the_hub_from_python(folder, tmp_path):
    with hub_of_this_process(tmp_path) as hub:
        result = cifar5m.publish(folder, "me/set", workers=1)
        assert published(hub) == contents(folder)
        again = cifar5m.publish(folder, "me/set", workers=1)
    assert (result.sent, again.sent) == (result.files, 0)
    assert result.url.endswith("/datasets/me/set")


def test_a_repository_must_have_an_owner(folder):
    with pytest.raises(ValueError, match="repo must be USER/NAME, got 'set'"):
        cifar5m.publish(folder, "set", workers=1)


def test_the_bundled_conditional_recipe_makes_every_class_in_each_ten_images(tmp_path):
    made = cifar5m.generate(tmp_path / "set", recipe="tiny-conditional", n=20, steps=1)
    assert cifar5m.verify(tmp_path / "set").ok
    store = open_store(tmp_path / "set")
    labels = np.concatenate([split.labels for split in store.splits.values()])
    assert sorted(labels[:10]) == sorted(labels[10:]) == list(range(10))
    assert "20 images" in str(made)
