"""Every JSON file that is read back, with one place of it made wrong: the reader accepts it or
refuses it in one line that names the file, and never breaks down.

The places are all keys and values of a valid file of each format; hypothesis picks place and fault.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifar5m.labels.agreement import Pair, Summary
from cifar5m.labels.labeling import LabelingPlan, labeling_plan
from cifar5m.sampling.job import GeneratedPlan, Options, find_sources, plan_of
from cifar5m.shards.importing import ImportedPlan
from cifar5m.weights.ho_ema import read_provenance
from cifar5m.weights.sources import find_labeler
from dogbird.building import DogBirdPlan
from tests.fuzz.mutations import DEEP, VALUES, damaged, places
from worlds.data.pack import read_manifest
from worlds.experiments.spec import Check, Experiment, Group, read_experiment
from worlds.formats.layout import CIFAR10_CLASSES, Shard
from worlds.formats.plan import Evaluation, load_plan
from worlds.formats.shards import find_record, load_record
from worlds.runtime.files import json_text, write_json
from worlds.runtime.json_files import load_json
from worlds.training.config import TrainConfig
from worlds.training.run_folder import Description, read_description, read_rows, read_run
from worlds.training.run_folder import Summary as RunSummary

SHARD = Shard("train", 0, 2, 0, 5)
SHA = "0123456789abcdef" * 4
CONFIG = TrainConfig("resnet18", options={"width": 8}, n=50, steps=7, batch_size=4)
HEADER = {
    "format": 1,
    "splits": {"train": 8, "test": 2},
    "shard_size": 5,
    "class_names": ["a", "b"],
    "image_shape": [32, 32, 3],
    "extension": "png",
    "fingerprint": SHA,
}
VERSIONS = {"torch": "2.13", "numpy": "2.4"}


def generated() -> dict[str, Any]:
    options = Options(n=20, recipe="tiny")
    return plan_of(options, find_sources(options)).to_json()


def labeling() -> dict[str, Any]:
    options = Options(n=20, recipe="tiny")
    dataset = plan_of(options, find_sources(options))
    return labeling_plan(dataset, "tiny", find_labeler("tiny").sha256, "fp32", 4).to_json()


def imported() -> dict[str, Any]:
    file = {"path": "part0.npz", "sha256": SHA, "bytes": 10, "mtime_ns": 12345}
    return HEADER | {
        "dataset": "import",
        "source": {"form": "parts", "sha256": [SHA]},
        "labels": "given",
        "probabilities": "one-hot",
        "versions": {"pillow": "13"},
        "subsets": {"paper_test": {"split": "test", "start": 0, "stop": 2}},
        "about": {"recipe": "import of parts", "files": [file]},
    }


def dogbird() -> dict[str, Any]:
    return HEADER | {
        "dataset": "dogbird",
        "synsets": ["n1", "n2"],
        "classes": {"a": ["n3"], "b": ["n4"]},
        "photographs": {"size": 256, "filter": "bilinear"},
        "order": "sha256",
        "left_out": SHA,
        "labels": "given",
        "probabilities": "one-hot",
        "duplicates": "kept",
        "beside": ["photographs.tsv"],
        "versions": VERSIONS,
        "source_sha256": {"train": SHA},
        "about": {"source": "/imagenet", "forms": {"train": "tars"}, "broken": 1, "request": SHA},
    }


RECORD = {
    "tar": SHARD.tar.name,
    "sha256": SHA,
    "bytes": 20_480,
    "arrays_sha256": SHA,
    "count": 5,
    "classes": [3, 2],
    "fingerprint": SHA,
    "seconds": 1.5,
    "device": "cpu",
}
EVALUATION = {
    "data": "test images",
    "weights_sha256": SHA,
    "precision": "fp32",
    "images": 100,
    "accuracy": 0.9,
    "mean_confidence": 0.8,
    "calibration_error": 0.1,
    "log_loss": 0.4,
    "class_accuracy": [0.9, None],
}
MANIFEST = {
    "format": 1,
    "splits": {"train": 8},
    "split_fingerprints": {"train": SHA},
    "fingerprint": SHA,
    "class_names": ["a", "b"],
    "files": {name: {"bytes": 9, "sha256": SHA} for name in ("images.npy", "labels.npy")},
}
ROW = {"step": 0, "updates": 1, "samples": 4, "learning_rate": 0.1, "test_error": 0.5}
DESCRIPTION = {
    "format": 1,
    "fingerprint": SHA,
    "config": CONFIG.to_json(),
    "parameters": 7,
    "data": {"name": "made", "train": SHA, "test": SHA, "cifar10": None, "pool": 9},
    "initial": None,
    "device": "cpu",
    "versions": VERSIONS,
}
RUN_SUMMARY = {
    "format": 1,
    "ended": "schedule",
    "bad_step": None,
    "steps": 7,
    "updates": 7,
    "t0": 3,
    "final": ROW,
    "seconds": 1.5,
    "evaluation_seconds": 0.5,
    "device": "cpu",
}
SUMMARY = Summary(
    images=4,
    agreement=0.5,
    mean_confidence=Pair(0.5, 0.6),
    class_names=CIFAR10_CLASSES[:2],
    matrix=((1, 1), (1, 1)),
)
EXPERIMENT = Experiment(
    "fig",
    "A figure",
    "curves",
    (Group("a", (CONFIG,)),),
    checks=(Check("gap", "within", tolerance=0.1, groups=("a",)),),
).to_json()
PROVENANCE = {
    "name": "ho",
    "kind": "ema",
    "evidence": "hash",
    "url": "https://x",
    "source_md5": SHA,
    "source_sha256": SHA,
    "weights_sha256": SHA,
    "tensors_sha256": SHA,
    "converter": 1,
}

# name: the valid content, the file's name, and how it is read
FORMATS: dict[str, tuple[Callable[[], Any], str, Callable[[Path], object]]] = {
    "generated plan": (generated, "plan.json", lambda d: load_plan(d, GeneratedPlan)),
    "header of a plan": (generated, "plan.json", load_plan),
    "imported plan": (imported, "plan.json", lambda d: load_plan(d, ImportedPlan)),
    "dogbird plan": (dogbird, "plan.json", lambda d: load_plan(d, DogBirdPlan)),
    "labeling plan": (labeling, "plan.json", lambda d: load_plan(d, LabelingPlan)),
    "record": (lambda: RECORD, str(SHARD.record), lambda d: load_record(d, SHARD)),
    "record, found": (lambda: RECORD, str(SHARD.record), lambda d: find_record(d, SHARD)),
    "labeling summary": (
        lambda: json.loads(json_text(SUMMARY)),
        "summary.json",
        lambda d: load_json(d / "summary.json", Summary),
    ),
    "evaluation": (
        lambda: EVALUATION,
        "evaluation.json",
        lambda d: load_json(d / "evaluation.json", Evaluation),
    ),
    "pack": (lambda: MANIFEST, "pack.json", read_manifest),
    "run": (lambda: DESCRIPTION, "config.json", read_description),
    "run, whole": (lambda: DESCRIPTION, "config.json", read_run),
    "run, bare": (
        lambda: DESCRIPTION,
        "config.json",
        lambda d: load_json(d / "config.json", Description),
    ),
    "run summary": (
        lambda: RUN_SUMMARY,
        "summary.json",
        lambda d: load_json(d / "summary.json", RunSummary),
    ),
    "metric row": (lambda: ROW, "metrics.jsonl", lambda d: read_rows(d / "metrics.jsonl")),
    "experiment": (
        lambda: EXPERIMENT,
        "fig.experiment.json",
        lambda d: read_experiment(d / "fig.experiment.json"),
    ),
    "provenance": (lambda: PROVENANCE, "provenance.json", read_provenance),
}


def refusal(read: Callable[[Path], object], folder: Path) -> str | None:
    """The error of a reader, None if it accepts the file."""
    try:
        read(folder)
    except ValueError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def contents() -> dict[str, Any]:
    return {name: make() for name, (make, _, _) in FORMATS.items()}


@pytest.mark.parametrize("name", FORMATS)
def test_a_valid_file_is_read(name, contents, tmp_path):
    _, file, read = FORMATS[name]
    write_json(tmp_path / file, contents[name])
    if file.endswith("l"):
        (tmp_path / file).write_bytes(json_text(contents[name]))
    assert read(tmp_path) is not None or name == "provenance"


@pytest.mark.parametrize("name", FORMATS)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_wrong_file_is_refused_in_one_line(name, contents, tmp_path, data):
    _, file, read = FORMATS[name]
    place = data.draw(st.sampled_from(list(places(contents[name]))))
    fault = data.draw(st.sampled_from(["value", "value", "missing", "unknown", "twice"]))
    text = damaged(contents[name], place, fault, data.draw(st.sampled_from(VALUES)))
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    line = refusal(read, tmp_path)
    assert line is None or (str(tmp_path) in line and "\n" not in line)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"\x00" * 100, DEEP.encode(), None])
def test_what_is_no_json_or_no_file_is_refused_in_one_line(name, content, tmp_path):
    _, file, read = FORMATS[name]
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content + b"\n")
    line = refusal(read, tmp_path)
    assert line is None or (str(tmp_path) in line and "\n" not in line)
    assert line is not None or not read(tmp_path)
