"""Fine-tune a timm classifier on CIFAR-10 into a labeler, by BiT-HyperRule.

    network = pretrained_network(options)
    trainer = Trainer(finetune_plan(options, network, store), network, store.train, device)
    for row in finetune(folder, trainer):
        ...  # row.step, row.loss
    for images in evaluate_labeler(folder, store, device, options.precision):
        ...  # progress

    FOLDER/plan.json            what decides the weights; a folder holds one plan
    FOLDER/checkpoint.pt        weights, momentum and step, until the end
    FOLDER/metrics.jsonl        step, learning rate, training loss
    FOLDER/config.json, model.safetensors    the timm folder that --labeler takes
    FOLDER/evaluation.json      accuracy and calibration on the test images, written last

All that is random is of (seed, step), so on a CPU a run that was stopped ends in the bytes of one
that was not. On a GPU that holds as far as its kernels repeat themselves.
"""

import hashlib
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from cifar5m.labels.calibration import evaluation
from cifar5m.labels.hyperrule import (
    MOMENTUM,
    augmented,
    draws,
    learning_rate,
    mixed,
    mixed_loss,
    mixup_of,
    schedule_of,
)
from cifar5m.labels.labeler import BIT, BIT_SIZE, Labeler, load_classifier
from cifar5m.weights.sources import EVALUATION, WeightsError, find_labeler
from worlds.data.splits import Split
from worlds.data.stores import Store
from worlds.formats.layout import CIFAR10_CLASSES, FORMAT
from worlds.formats.plan import (
    About,
    Count,
    Evaluation,
    SealedPlan,
    claim_folder,
    package_versions,
    seal,
)
from worlds.rng.orders import pass_order
from worlds.rng.streams import key_of
from worlds.runtime.checkpoints import load_checkpoint, save_checkpoint
from worlds.runtime.device import float32_products, in_precision
from worlds.runtime.errors import first_line
from worlds.runtime.files import atomic_write, json_text, sha256_of, write_json
from worlds.runtime.json_files import load_json
from worlds.runtime.precision import PRECISIONS
from worlds.runtime.torchvision_ops import declare_missing_operators

MODEL: Final = f"{BIT}.goog_in21k"
CHECKPOINT: Final = "checkpoint.pt"
METRICS: Final = "metrics.jsonl"
_EVALUATED: Final = 100  # images a call


@dataclass(frozen=True)
class Options:
    """Settings that decide the weights. `steps`, `mixup`, `size` None: as the rule and the model
    say.
    """

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


@dataclass(frozen=True)
class Row:
    """One step as it was made; `loss` is the mean over the batch, mixup included."""

    step: int
    learning_rate: float
    loss: float


def pretrained_network(options: Options) -> torch.nn.Module:
    """The model with its weights and a new head of zeros; WeightsError where they are not had."""
    declare_missing_operators()
    import timm

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
            f"model={options.model} cannot be had ({reason}); give timm's name of a model, "
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
    """All that decides the weights, with its fingerprint; ValueError unless the data fits."""
    if store.class_names != CIFAR10_CLASSES:
        raise ValueError(
            f"{store.source} must have CIFAR-10's classes, got {', '.join(store.class_names[:10])}"
        )
    train, test = store.train, store.test
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


def is_trained(folder: Path) -> bool:
    """Return whether the labeler's files exist; they are written when training has ended."""
    return all((folder / name).is_file() for name in ("config.json", "model.safetensors"))


def is_finished(folder: Path) -> bool:
    """Return whether the labeler was evaluated. Raises ValueError if its weights have changed
    since.
    """
    if not is_trained(folder):
        return False
    try:
        measured = load_json(folder / EVALUATION, Evaluation).weights_sha256
    except ValueError:
        return False
    weights = find_labeler(str(folder)).file
    if sha256_of(weights) != measured:
        raise ValueError(
            f"{weights} is damaged or another one: {EVALUATION} was measured on other weights; "
            f"delete both to train anew"
        )
    return True


class Trainer:
    """Weights, momentum and step of one fine-tuning, and the way to and from its checkpoint."""

    def __init__(
        self, plan: FinetunePlan, network: torch.nn.Module, train: Split, device: torch.device
    ) -> None:
        self.plan, self.train, self.device = plan, train, device
        layout: Any = {"memory_format": torch.channels_last}
        self.network = network.float().to(device).to(**layout).train()
        self.optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=MOMENTUM)
        config: Any = network.pretrained_cfg
        shape = (1, 3, 1, 1)
        self.mean = torch.tensor(config["mean"], device=device).view(shape)
        self.std = torch.tensor(config["std"], device=device).view(shape)
        self.rows: list[Row] = []
        self.normalizes_batches = any(
            isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
            for module in network.modules()
        )

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.rows)

    @property
    def steps(self) -> int:
        return self.plan.schedule[-1]

    def _batch_indices(self, step: int) -> np.ndarray:
        """The samples of a step, uint32; a pass ends with a smaller batch where it must."""
        batch, n = self.plan.batch, len(self.train)
        epoch, place = divmod(step, -(-n // batch))
        return pass_order(n, self.plan.seed, 0, epoch)[place * batch : (place + 1) * batch]

    def one_step(self, micro_batch: int) -> Row:
        """`micro_batch` images at a time go through the network; the gradient is the batch's."""
        step, plan = self.step, self.plan
        rate = learning_rate(step, plan.learning_rate, plan.schedule)
        index = self._batch_indices(step)
        room = plan.size // 4
        drawn = draws(plan.seed, step, len(index), room, plan.mixup)
        pixels = torch.from_numpy(self.train.gather(index)).to(self.device)
        x = (augmented(pixels, drawn, plan.size, room) - self.mean) / self.std
        x = mixed(x, drawn).contiguous(memory_format=torch.channels_last)
        labels = torch.from_numpy(self.train.labels[index]).to(self.device)
        others = labels[torch.from_numpy(drawn.other).to(self.device)]
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        # Forward and backward: a convolution's gradient is a product too.
        with float32_products(plan.precision):
            for part in torch.arange(len(index), device=self.device).split(micro_batch):
                with in_precision(plan.precision, self.device):
                    logits = self.network(x[part]).float()
                loss = mixed_loss(logits, labels[part], others[part], drawn.mix) / len(index)
                loss.backward()
                total += loss.item()
        if not np.isfinite(total):
            raise RuntimeError(
                f"the loss is {total} at step {step}: try a smaller `learning_rate`, with another "
                "`out`"
            )
        self.optimizer.step()
        self.rows.append(Row(step, rate, total))
        return self.rows[-1]

    def save(self, folder: Path) -> None:
        state = {
            "fingerprint": self.plan.fingerprint,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rows": [(row.step, row.learning_rate, row.loss) for row in self.rows],
        }
        save_checkpoint(folder / CHECKPOINT, state)
        with atomic_write(folder / METRICS) as stream:
            stream.writelines(map(json_text, self.rows))

    def restore(self, folder: Path) -> None:
        """Go on from the checkpoint, if there is one."""
        path = folder / CHECKPOINT
        if not path.is_file():
            return
        try:
            state = load_checkpoint(path, self.device)
            fingerprint, rows = state["fingerprint"], [Row(*row) for row in state["rows"]]
            if fingerprint == self.plan.fingerprint:
                self.network.load_state_dict(state["network"])
                self.optimizer.load_state_dict(state["optimizer"])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of torch, of pickle, of zip: whatever a damaged file brings up
            raise ValueError(f"{path} is damaged: delete it to begin anew") from error
        if fingerprint != self.plan.fingerprint:
            raise ValueError(f"{path} is another plan's: delete it to begin anew")
        self.rows = rows


def finetune(
    folder: Path, trainer: Trainer, micro_batch: int | None = None, save_every: int = 500
) -> Generator[Row, None, None]:
    """Train to the end of the schedule and save the labeler; yields each step's row.

    Goes on from the folder's checkpoint. Closing the iterator, or an error thrown by whoever
    listens, saves the step it stands at.
    """
    micro_batch = micro_batch or trainer.plan.batch
    if trainer.normalizes_batches and micro_batch < trainer.plan.batch:
        raise ValueError(
            f"micro_batch: {trainer.plan.architecture} normalizes over batches, so smaller "
            f"ones would change the result; choose a smaller `batch`"
        )
    claim_folder(folder, trainer.plan)
    trainer.restore(folder)
    try:
        while trainer.step < trainer.steps:
            yield trainer.one_step(micro_batch)
            if trainer.step % save_every == 0:
                trainer.save(folder)
    except GeneratorExit:
        trainer.save(folder)
        raise
    trainer.save(folder)
    save_labeler(folder, trainer)


def save_labeler(folder: Path, trainer: Trainer) -> None:
    """The timm folder: weights first, then the config without which it is none."""
    from safetensors.torch import save

    network: Any = trainer.network
    state = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    with atomic_write(folder / "model.safetensors") as stream:
        stream.write(save(state))
    size = trainer.plan.size
    config = {
        "architecture": trainer.plan.architecture,
        "num_classes": len(CIFAR10_CLASSES),
        "model_args": trainer.plan.model_args,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "mean": list(network.pretrained_cfg["mean"]),
            "std": list(network.pretrained_cfg["std"]),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "num_classes": len(CIFAR10_CLASSES),
            "label_names": list(CIFAR10_CLASSES),
        },
    }
    write_json(folder / "config.json", config)


def evaluate_labeler(
    folder: Path, store: Store, device: torch.device, precision: str
) -> Iterator[int]:
    """Measure the saved labeler as `--labeler` loads it, and write evaluation.json.

    Yields how many test images each call took. The checkpoint, which is not needed any more, goes.
    """
    weights = find_labeler(str(folder))
    classifier, preprocessing = load_classifier(weights)
    labeler = Labeler(classifier, preprocessing, device, precision, _EVALUATED)
    found = []
    for start in range(0, len(store.test), _EVALUATED):
        index = np.arange(start, min(start + _EVALUATED, len(store.test)))
        pixels = torch.from_numpy(store.test.gather(index)).to(device)
        found.append(labeler(pixels).cpu().numpy())
        yield len(index)
    measured = Evaluation(
        data=f"the test images of {Path(store.source).name}",
        weights_sha256=weights.sha256,
        precision=precision,
        **evaluation(np.concatenate(found), store.test.labels),
    )
    write_json(folder / EVALUATION, measured)
    (folder / CHECKPOINT).unlink(missing_ok=True)
