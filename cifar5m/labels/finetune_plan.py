"""The plan of a fine-tuned labeler: the user's options, the network it begins from, and the plan.

network = pretrained_network(options)
plan = finetune_plan(options, network, open_store("~/data"))
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from cifar5m.labels.hyperrule import mixup_of, schedule_of
from cifar5m.labels.labeler import BIT, BIT_SIZE
from cifar5m.weights.sources import WeightsError
from worlds.data.stores import Store
from worlds.formats.layout import CIFAR10_CLASSES, FORMAT
from worlds.formats.plan import About, Count, SealedPlan, package_versions, seal
from worlds.rng.streams import key_of
from worlds.runtime.errors import first_line
from worlds.runtime.json_files import load_json
from worlds.runtime.precision import PRECISIONS
from worlds.runtime.torchvision_ops import declare_missing_operators

MODEL: Final = f"{BIT}.goog_in21k"


@dataclass(frozen=True)
class Options:
    """Settings that decide the weights; None leaves one to the rule and the model."""

    model: str = MODEL  # timm's name, or a timm folder
    weights: str | None = None  # a file, in place of the model's published weights
    scratch: bool = False  # no weights at all
    batch: int = 512
    learning_rate: float = 0.003
    steps: int | None = None
    mixup: float | None = None
    size: int | None = None  # of the crop; images are enlarged to five quarters of it
    seed: int = 0
    precision: str = "tf32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS[:3]:  # fp16 would need a loss scale
            known = ", ".join(PRECISIONS[:3])
            raise ValueError(f"precision must be one of {known}, got {self.precision!r}")
        # Ranges, in the words of the options.
        for name, least in (("batch", 1), ("steps", 1), ("size", 32)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name} must be at least {least}, got {value}")
        key_of(self.seed)
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if self.mixup is not None and not 0 <= self.mixup < math.inf:
            raise ValueError(f"mixup must be 0 or more, got {self.mixup}")
        if self.scratch and self.weights:
            raise ValueError("weights and scratch exclude each other")


class FinetunePlan(SealedPlan, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides the weights of a labeler."""

    rule: str
    architecture: str
    model_args: dict[str, Any]
    initial_sha256: str
    batch: Count
    learning_rate: float
    schedule: tuple[int, ...]
    mixup: float
    size: Count
    seed: int
    precision: str
    train: str  # fingerprints of the splits
    test: str
    versions: dict[str, str]


def pretrained_network(options: Options) -> torch.nn.Module:
    """Load the model with its weights and a new head of zeros.

    Raises WeightsError if the weights could not be loaded.
    """
    declare_missing_operators()
    import timm

    # timm's name of a model, or of a local directory.
    folder = Path(options.model).expanduser()
    name = f"local-dir:{folder}" if folder.is_dir() else options.model
    overlay = {"file": options.weights} if options.weights else None
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)  # of what has no weights yet
            network = timm.create_model(
                name,
                pretrained=not options.scratch,
                num_classes=len(CIFAR10_CLASSES),
                pretrained_cfg_overlay=overlay,
            )
    except Exception as error:  # of timm, of the Hub's client, of a file's reader
        reason = first_line(error)
        raise WeightsError(
            f"model={options.model} could not be loaded ({reason}); give timm's name of a model, "
            f"bring its weights as weights=FILE, or begin without any, scratch=True"
        ) from error
    head: Any = network.get_classifier()
    # A head of zeros: before the first step all classes are equal.
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    return network


def input_size(options: Options, network: torch.nn.Module) -> int:
    """Return the crop's size: as chosen, else as the model requires, else BiT's 128. Raises
    ValueError if the first two differ.
    """
    config: Any = network.pretrained_cfg
    fixed = int(config["input_size"][-1]) if config.get("fixed_input_size") else None
    if fixed and options.size not in (None, fixed):
        raise ValueError(
            f"size: {config['architecture']} takes images of {fixed} pixels, got {options.size}"
        )
    return options.size or fixed or BIT_SIZE


def finetune_plan(options: Options, network: torch.nn.Module, store: Store) -> FinetunePlan:
    """Return all that decides the weights; ValueError if the data does not fit."""
    if store.class_names != CIFAR10_CLASSES:
        raise ValueError(
            f"{store.source} must have CIFAR-10's classes, got {', '.join(store.class_names[:10])}"
        )
    train, test = store.train, store.test
    # What the rule and the model leave to be decided.
    config: Any = network.pretrained_cfg
    mixup = mixup_of(len(train)) if options.mixup is None else options.mixup
    path = Path(options.model).expanduser() / "config.json"  # of a timm directory
    model_args = load_json(path, dict[str, Any]).get("model_args", {}) if path.is_file() else {}
    plan = FinetunePlan(
        format=FORMAT,
        rule="BiT-HyperRule",
        architecture=config["architecture"],
        model_args=model_args,
        initial_sha256=_state_sha256(network),
        batch=options.batch,
        learning_rate=options.learning_rate,
        schedule=schedule_of(len(train), options.steps),
        mixup=mixup,
        size=input_size(options, network),
        seed=options.seed,
        precision=options.precision,
        train=train.fingerprint,
        test=test.fingerprint,
        versions=package_versions(),
        fingerprint="",
        about=About(model=options.model, weights=options.weights, data=store.source),
    )
    return seal(plan)


def _state_sha256(network: torch.nn.Module) -> str:
    """Return the sha256 of all weights before the first step."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
