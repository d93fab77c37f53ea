"""Fine-tune a timm classifier on CIFAR-10 into a labeler, by BiT-HyperRule.

    trainer = Trainer(plan, network, store.train, device)     # of labels/finetune_plan.py
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

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from cifar5m.labels.calibration import evaluation
from cifar5m.labels.finetune_plan import FinetunePlan
from cifar5m.labels.hyperrule import MOMENTUM, augmented, draws, learning_rate, mixed, mixed_loss
from cifar5m.labels.labeler import Labeler, load_classifier
from cifar5m.weights.sources import EVALUATION, find_labeler
from worlds.data.splits import Split
from worlds.data.stores import Store
from worlds.formats.layout import CIFAR10_CLASSES
from worlds.formats.plan import Evaluation, claim_folder
from worlds.rng.orders import pass_order
from worlds.runtime.checkpoints import load_checkpoint, save_checkpoint
from worlds.runtime.device import float32_products, in_precision, place, training_layout
from worlds.runtime.files import atomic_write, json_text, sha256_of, write_json
from worlds.runtime.json_files import load_json

CHECKPOINT: Final = "checkpoint.pt"
METRICS: Final = "metrics.jsonl"
_EVALUATED: Final = 100  # images a call


@dataclass(frozen=True)
class Row:
    """One step as it was made; `loss` is the mean over the batch, mixup included."""

    step: int
    learning_rate: float
    loss: float


def is_trained(folder: Path) -> bool:
    """Return whether the labeler's files exist; they are written when training has ended."""
    return all((folder / name).is_file() for name in ("config.json", "model.safetensors"))


def is_finished(folder: Path) -> bool:
    """Return whether the labeler was evaluated. Raises ValueError if its weights have changed
    since.
    """
    if not is_trained(folder):
        return False
    # An evaluation is only good for the weights that it measured.
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
        self.layout = training_layout(network, device)
        self.network = place(network.float(), device, self.layout).train()
        self.optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=MOMENTUM)
        config: Any = network.pretrained_cfg
        self.mean = torch.tensor(config["mean"], device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(config["std"], device=device).view(1, 3, 1, 1)
        self.rows: list[Row] = []
        norms = torch.nn.modules.batchnorm._BatchNorm
        self.normalizes_batches = any(isinstance(module, norms) for module in network.modules())

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.rows)

    @property
    def steps(self) -> int:
        return self.plan.schedule[-1]

    def one_step(self, micro_batch: int) -> Row:
        """Make one step; `micro_batch` images at a time go through the network.

        Raises RuntimeError if the loss is not finite.
        """
        step, plan = self.step, self.plan
        rate = learning_rate(step, plan.learning_rate, plan.schedule)
        x, labels, others, mix = self._batch(step)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        # Forward and backward: a convolution's gradient is a product too.
        with float32_products(plan.precision):
            for part in torch.arange(len(x), device=self.device).split(micro_batch):
                with in_precision(plan.precision, self.device):
                    logits = self.network(x[part]).float()  # (B, 10)
                loss = mixed_loss(logits, labels[part], others[part], mix) / len(x)
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

    def _batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
        """Return a step's mixed images, both labels of each, and the share of the first."""
        # A pass ends with a smaller batch if it must.
        plan, n = self.plan, len(self.train)
        epoch, number = divmod(step, -(-n // plan.batch))
        order = pass_order(n, plan.seed, 0, epoch)
        index = order[number * plan.batch : (number + 1) * plan.batch]  # uint32 (B,)
        # Enlarge, crop, flip, normalize, mix.
        room = plan.size // 4  # pixels that a crop can move
        drawn = draws(plan.seed, step, len(index), room, plan.mixup)
        pixels = torch.from_numpy(self.train.gather(index)).to(self.device)  # (B, H, W, 3)
        x = (augmented(pixels, drawn, plan.size, room) - self.mean) / self.std
        x = mixed(x, drawn).contiguous(memory_format=self.layout)
        labels = torch.from_numpy(self.train.labels[index]).to(self.device)
        others = labels[torch.from_numpy(drawn.other).to(self.device)]
        return x, labels, others, drawn.mix

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
        """Load the checkpoint, if there is one."""
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

    Resumes from the directory's checkpoint. Closing the iterator saves the last step.
    """
    micro_batch = micro_batch or trainer.plan.batch
    if trainer.normalizes_batches and micro_batch < trainer.plan.batch:
        raise ValueError(
            f"micro_batch: {trainer.plan.architecture} normalizes over batches, so smaller "
            f"ones would change the result; choose a smaller `batch`"
        )
    # A stop between two steps leaves a checkpoint of the last one.
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
    """Write the timm directory: weights first, then the config without which it is incomplete."""
    from safetensors.torch import save

    network: Any = trainer.network
    state = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    with atomic_write(folder / "model.safetensors") as stream:
        stream.write(save(state))
    # What timm needs to load the model, and to prepare images for it.
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

    Yields how many test images each call took. The checkpoint is deleted: it is not needed now.
    """
    weights = find_labeler(str(folder))
    labeler = Labeler(*load_classifier(weights), device, precision, _EVALUATED)
    # Probabilities of all test images, batch by batch.
    found = []
    for start in range(0, len(store.test), _EVALUATED):
        index = np.arange(start, min(start + _EVALUATED, len(store.test)))
        pixels = torch.from_numpy(store.test.gather(index)).to(device)  # (B, H, W, 3)
        found.append(labeler(pixels).cpu().numpy())  # (B, 10)
        yield len(index)
    measured = Evaluation(
        data=f"the test images of {Path(store.source).name}",
        weights_sha256=weights.sha256,
        precision=precision,
        **evaluation(np.concatenate(found), store.test.labels),
    )
    write_json(folder / EVALUATION, measured)
    (folder / CHECKPOINT).unlink(missing_ok=True)
