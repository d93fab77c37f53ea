"""Measure at a log point: the test sets, and in the Real World the training set twice.

The paper's train error is that of augmented images: its code runs the network, in eval mode, over
the training loader itself. With `fresh_crops` every log point draws other crops and flips, as
there; else every sample keeps one crop and flip for the whole run, other than any that training
uses, so that the curve moves only with the network. Beside it stands the error on the images as
they are stored (with `fresh_crops` on the first CLEAN of them).
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.fx import symbolic_trace
from torch.nn.utils.fusion import fuse_conv_bn_weights

from worlds.data.images import ArrayImages
from worlds.data.splits import Pool, Split
from worlds.loaders.base import Loader
from worlds.loaders.loaders import SequentialLoader
from worlds.loaders.samplers import Sampler
from worlds.rng.philox import words
from worlds.rng.streams import EVALUATION
from worlds.runtime.device import replay_of
from worlds.runtime.selfcheck import passes
from worlds.training.config import TrainConfig
from worlds.training.metrics import mean_metrics
from worlds.training.parts import OWN_NOTHING, Parts

_CPU_BATCH: Final = 100  # images: what a batch makes stays in cache
_GPU_PIXELS: Final = 2_000 * 32 * 32  # of a batch

CLEAN: Final = 10_000  # samples measured as stored, beside fresh crops
HALF: Final = torch.bfloat16  # of a folded copy
_FOLDED_TOLERANCE: Final = 3e-2  # of logits, as a share of their length

Predict = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class BatchFormat:
    """Device, dtype, memory format and pixel range of batches."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    normalize: str = "symmetric"

    @property
    def output(self) -> dict[str, Any]:
        return vars(self)


def evaluation_batch(device: torch.device, pool: Pool) -> int:
    """Return how many samples to take at once; no result depends on it but in rounding. On a GPU
    the pixels are limited: 2,000 images of 224 pixels would take 48 GiB in VGG-16.
    """
    if device.type == "cpu":
        return _CPU_BATCH
    images = isinstance(pool, Split) and pool.holds_images
    height, width, _ = pool.image_shape if images else (32, 32, 3)  # pixels
    return max(32, _GPU_PIXELS // (height * width))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set eval mode without gradients, and restore the mode."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


class FoldedCopy:
    """A network's copy that only predicts: in half precision once, without autocast's casts, its
    batch norms folded into the convolutions that nothing else reads, and on a GPU one CUDA graph.

        copy = FoldedCopy(model, torch.bfloat16)
        copy.refresh()                              # after each change of the model's weights
        logits = copy(x)                            # float32 (B, classes)
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self._model, self._pairs = model, _foldable(model)
        self._copy = deepcopy(model).eval().requires_grad_(False)
        # Weights in half precision; batch norms that are not folded stay in float32.
        for module in self._copy.modules():
            if not isinstance(module, nn.BatchNorm2d):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(dtype)
        for convolution, norm in self._pairs.items():
            folded = self._copy.get_submodule(convolution)
            if folded.bias is None:
                zeros = torch.zeros_like(folded.weight[:, 0, 0, 0])  # (outputs,)
                folded.bias = nn.Parameter(zeros, requires_grad=False)
            self._copy.set_submodule(norm, nn.Identity())
        self._replay: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._shape: torch.Size | None = None

    def refresh(self) -> None:
        """Take over the model's weights and statistics."""
        # Folded weights take the place of the convolution and of its norm.
        source = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        for convolution, norm in self._pairs.items():
            layer: Any = self._model.get_submodule(convolution)
            of: Any = self._model.get_submodule(norm)
            statistics = of.running_mean, of.running_var, of.eps, of.weight, of.bias
            folded = fuse_conv_bn_weights(layer.weight, layer.bias, *statistics)
            source |= {f"{convolution}.weight": folded[0], f"{convolution}.bias": folded[1]}
        for name, value in (*self._copy.named_parameters(), *self._copy.named_buffers()):
            value.copy_(source[name])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        # On a GPU batches of the first shape replay a graph.
        if x.device.type == "cuda" and self._replay is None:
            self._replay, self._shape = self._captured(x), x.shape
        if self._replay is not None and x.shape == self._shape:
            return self._replay(x)
        logits: torch.Tensor = self._copy(x)  # also of the last batch, which is smaller
        return logits.float()

    def _captured(self, x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        kept = x.clone()  # where the graph reads
        run = replay_of(lambda: self._copy(kept).float(), x.device, torch.cuda.Stream(x.device))

        def replay(x: torch.Tensor) -> torch.Tensor:
            kept.copy_(x)
            return run().clone()

        return replay


def _foldable(model: nn.Module) -> dict[str, str]:
    """Return the names of convolutions, and of the batch norm that alone reads each."""
    try:
        nodes = list(symbolic_trace(model).graph.nodes)
    except Exception:  # of whatever a forward does with a stand-in for its input
        return {}
    # A convolution is folded if one norm reads it, and both are called once.
    modules = dict(model.named_modules())
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    found = {}
    for node in nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        read = node.args[0]
        alone = read.op == "call_module" and len(read.users) == 1
        once = alone and calls[read.target] == calls[node.target] == 1
        if once and type(modules[read.target]) is nn.Conv2d:
            found[read.target] = node.target
    return found


def is_foldable(model: nn.Module) -> bool:
    """Return whether all norms of a network are batch norms of images: others, and recurrent
    layers, are left to autocast.
    """
    known = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
    owners = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]
    norms = any(isinstance(module, nn.BatchNorm2d) for module in owners)
    return norms and all(isinstance(module, known) for module in owners)


class Evaluation:
    """The measurements of one run: `measure(model, predict)` gives a row's metrics.

    All images stay where the loaders keep them: on a CUDA device as uint8.
    """

    def __init__(
        self,
        config: TrainConfig,
        test: Pool,
        cifar10: Pool | None,
        train: Pool | None,
        samples: np.ndarray | None,
        form: BatchFormat,
        validation: np.ndarray | None = None,
        parts: Parts = OWN_NOTHING,
    ) -> None:
        """`train` holds the labels trained on and `samples` the pool indices of the Real World
        (None: all of it); an Ideal run has no `train`. `validation` are other pool indices.
        """
        self.config, self.test, self.parts = config, test, parts
        self.folds = False  # whether a folded copy may stand for the network
        self._folded: FoldedCopy | None = None
        tests = {"test": test} if cifar10 is None else {"test": test, "cifar10": cifar10}
        self.sets = {
            name: in_order(split, np.arange(len(split))[: config.test_eval], form)
            for name, split in tests.items()
        }
        if train is not None and validation is not None:
            self.sets["validation"] = in_order(train, validation, form)
        self.train = None if train is None else TrainSet(config, train, samples, form)

    def measure(self, model: nn.Module, predict: Predict, step: int) -> dict[str, float | None]:
        """Return the metrics of one row; `predict` maps a batch to float32 logits."""
        # The number of the log point decides the crops, and whether it has clean metrics.
        number = bisect_left(self.config.points, step)
        if self.train is not None:
            self.train.begin_pass(number)
        with evaluating(model):
            predict = self._fastest(model, predict)
            row = self.measure_sets(model, predict)
            if self.config.noise is not None and self.config.noise.pairs:
                row |= self._pair_rows(predict)
            if self.train is not None:
                clean = number % self.config.clean_every == 0 or step == self.config.points[-1]
                row |= self._train_rows(predict, self.train, clean)
        return row

    def measure_sets(
        self, model: nn.Module, predict: Predict, prefix: str = ""
    ) -> dict[str, float | None]:
        """Return the metrics of the test and validation sets."""
        row: dict[str, float | None] = {}
        with evaluating(model):
            for name, loader in self.sets.items():
                row |= self._pass(f"{prefix}{name}", loader, predict)
        return row

    def _fastest(self, model: nn.Module, predict: Predict) -> Predict:
        """Return a folded copy's prediction where that is asked for and close to `predict`."""
        # Tried once, on the first batch of the test set.
        if self.folds and self._folded is None:
            self.folds = is_foldable(model) and self._passes(FoldedCopy(model, HALF), predict)
        if self._folded is None:
            return predict
        self._folded.refresh()
        return self._folded

    def _passes(self, folded: FoldedCopy, predict: Predict) -> bool:
        x, _ = next(iter(self.sets["test"]))
        network = f"{self.config.arch}, {dict(self.config.options)}, {tuple(x.shape)}"

        def is_close() -> bool:
            folded.refresh()
            found, expected = folded(x), predict(x)
            return bool((found - expected).norm() <= _FOLDED_TOLERANCE * expected.norm())

        found = passes(f"folded evaluation of {network}", x.device, is_close, "autocast")
        self._folded = folded if found else None
        return found

    def _pass(self, name: str, loader: Loader, predict: Predict) -> dict[str, float | None]:
        """Return means over what a loader yields, as NAME_METRIC; this waits for the device."""
        batches = ((predict(x), y) for x, y in loader)
        means = mean_metrics(batches, self.parts.loss or self.config.loss, self.parts.metrics)
        return {f"{name}_{metric}": value for metric, value in means.items()}

    def _train_rows(
        self, predict: Predict, train: "TrainSet", clean: bool
    ) -> dict[str, float | None]:
        """Return the metrics of the training set; without `clean` of augmented images alone."""
        row = self._pass("train", train.augmented or train.stored, predict)
        if train.augmented is None:  # the same images
            row |= {name.replace("train", "train_clean", 1): row[name] for name in row}
        elif clean:
            row |= self._pass("train_clean", train.stored, predict)
        else:
            return row
        if self.config.noise is None:
            return row
        # By whether the noise changed the label of a sample.
        called = torch.cat([predict(x).argmax(1) for x, _ in train.stored]).cpu().numpy()
        true, given = train.clean_labels, train.labels
        changed = true != given  # (N,)
        row["train_true_error"] = float((called != true).mean())
        row["train_kept_error"] = _mean((called != given)[~changed])
        row["train_corrupted_true_error"] = _mean((called != true)[changed])
        row["train_corrupted_error"] = _mean((called != given)[changed])
        return row

    def _pair_rows(self, predict: Predict) -> dict[str, float | None]:
        """Return, for the test images of each class by clean labels, the share called each class,
        and in classes that the noise changes the share of the partner, as called and in the
        softmax.
        """
        loader, pairs = self.sets["test"], self.config.noise.pairs  # type: ignore[union-attr]
        # What each test image is called, by its clean label.
        logits = torch.cat([predict(x) for x, _ in loader]).cpu()
        assert isinstance(self.test, Split)  # label noise needs known labels
        labels = self.test.clean_labels[: loader.sampler.n]
        called, mass = logits.argmax(1).numpy(), logits.double().softmax(1).numpy()  # (N,), (N, K)
        classes = range(len(self.test.class_names))
        row = {
            f"test_confusion_{true}_{other}": _mean(called[labels == true] == other)
            for true in classes
            for other in classes
        }
        # The classes whose label the noise changes, and what it changes it to.
        partner = np.full(len(classes), -1)
        partner[list(pairs)] = list(pairs.values())  # (classes,), -1: none
        noisy = np.flatnonzero(partner[labels] >= 0)  # test images
        partners = partner[labels[noisy]]
        row["test_partner_share"] = _mean(called[noisy] == partners)
        row["test_partner_mass"] = _mean(mass[noisy, partners])
        return row


class TrainSet:
    """The fixed part of a Real World's samples on which train metrics are taken: its first ones in
    the order of the subset, so those of a smaller n are among those of a larger.
    """

    def __init__(
        self,
        config: TrainConfig,
        split: Pool,
        samples: np.ndarray | None,
        form: BatchFormat,
    ) -> None:
        # The first ones of the subset.
        chosen = np.arange(len(split)) if samples is None else samples
        chosen = chosen[: config.train_eval]
        # A seed of its own: the crops are none of those that training draws.
        seed, trial = config.stream("augment")
        own = words(seed, EVALUATION, trial, torch.zeros(1, dtype=torch.int64), 1)  # (1, 4)
        seed = int(own[0, 0]) | int(own[0, 1]) << 32
        self.augmented: Loader | None = None  # where that differs
        batch, output = (
            evaluation_batch(form.device, split),
            form.output | {"augment": config.augment},
        )
        if config.augment is not None and config.fresh_crops:
            in_turn: dict[str, Any] = {"remainder": "short", "shuffle": False}
            sampler = Sampler("sequential", len(split), batch, seed, samples=chosen, **in_turn)
            self.augmented = Loader(split, sampler, None, **output)
            chosen = chosen[:CLEAN]
        elif config.augment is not None:
            self.augmented = SequentialLoader(split, batch, indices=chosen, seed=seed, **output)
        # The same images as they are stored.
        if isinstance(split, Split):
            self.labels, self.clean_labels = split.labels[chosen], split.clean_labels[chosen]
        self.stored = in_order(split, chosen, form)

    def begin_pass(self, number: int) -> None:
        """Draw the crops of the log point of this number."""
        if self.augmented is not None and not isinstance(self.augmented, SequentialLoader):
            step = number * (self.augmented.sampler.steps_per_pass or 0)
            self.augmented.load_state_dict(self.augmented.state_dict() | {"step": step})


def in_order(split: Pool, chosen: np.ndarray, form: BatchFormat) -> SequentialLoader:
    """Return the loader of a pass over the chosen samples. What is stored encoded is decoded once
    for the whole run, at 3 kB of memory an image of 32 px and 150 kB of 224.
    """
    batch = evaluation_batch(form.device, split)
    if not isinstance(split, Split) or split.images.addresses(chosen[:1]) is not None:
        return SequentialLoader(split, batch, indices=chosen, **form.output)
    decoded = Split(
        name=split.name,
        images=ArrayImages([split.gather(chosen)]),
        clean_labels=split.labels[chosen],
        class_names=split.class_names,
        fingerprint=split.fingerprint,
    )
    return SequentialLoader(decoded, batch, **form.output)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
