"""Build the parts of a run: its data, its world's loader, its network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worlds.data.labels import LabelNoise
from worlds.data.splits import Pool, Split
from worlds.data.stores import Store
from worlds.loaders.base import Loader
from worlds.loaders.loaders import BootstrapLoader, FixedReuseLoader, IdealLoader, RealLoader
from worlds.loaders.samplers import subset
from worlds.rng.philox import words
from worlds.rng.streams import TRAINING
from worlds.runtime.device import AUTOCAST_DTYPES, place, training_layout
from worlds.training.config import TrainConfig, is_outside
from worlds.training.distributed import ALONE, Replicas
from worlds.training.evaluation import BatchFormat
from worlds.training.objectives import headed_for
from worlds.training.parts import OWN_NOTHING, Parts, build_model
from worlds.training.pretrained import load_initial
from worlds.training.run_folder import DataFacts


@dataclass(frozen=True)
class Data:
    """The splits to train and measure on; `cifar10` is CIFAR-10's own test set, if given."""

    train: Pool
    test: Pool
    cifar10: Pool | None = None
    name: str = ""

    @classmethod
    def of(cls, store: Store, cifar10: Split | None = None, test: Split | None = None) -> "Data":
        """Return a store's splits, with `test` in place of its own test split.

        Raises ValueError where there is no test split, or the test sets have other classes.
        """
        data = cls(store.train, store.test if test is None else test, cifar10, store.source)
        for split in (data.test, data.cifar10):
            if split is not None and len(split.class_names) != len(data.train.class_names):
                raise ValueError(
                    f"the {split.name} split has {len(split.class_names)} classes, the training "
                    f"split {len(data.train.class_names)}: they must be the same"
                )
        return data

    @property
    def test_sizes(self) -> list[int]:
        """Return the images of each test set."""
        return [len(split) for split in (self.test, self.cifar10) if split is not None]

    def with_noise(self, config: TrainConfig) -> tuple[Pool, Pool]:
        """Return train and test split with the config's noise on the labels of train, and of test
        if it says so. Raises ValueError for data without known labels.
        """
        noise, test = config.noise, self.test
        if noise is None:
            return self.train, test
        if not isinstance(self.train, Split):
            raise ValueError("label noise needs a store whose labels are known")
        if config.test_noise and isinstance(test, Split):
            test = test.with_label_noise(noise_of_test(noise))
        return self.train.with_label_noise(noise), test

    def describe(self) -> DataFacts:
        return DataFacts(
            name=self.name,
            train=self.train.fingerprint,
            test=self.test.fingerprint,
            cifar10=None if self.cifar10 is None else self.cifar10.fingerprint,
            classes=self.train.class_names,
            pool=len(self.train),
        )


def batch_format(
    config: TrainConfig, device: torch.device, model: torch.nn.Module | None = None
) -> BatchFormat:
    """Return a run's batch format: in half precision if the network takes it, and in the memory
    format of its weights.
    """
    half = AUTOCAST_DTYPES.get(config.precision, torch.float32)
    last = model is not None and any(
        p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
        for p in model.parameters()
    )
    return BatchFormat(device, half, channels_last=last, normalize=config.normalize)


def takes_channels_last(
    model: torch.nn.Module, config: TrainConfig, parts: Parts = OWN_NOTHING
) -> bool:
    """Return whether a network is faster on channels_last images, and right: it convolves.

    What users write may call `view`, which needs contiguous memory: their networks, and those that
    their optimizers train, get that.
    """
    own_model = is_outside(config.arch) and not config.arch.startswith("timm:")
    if own_model or is_outside(config.optimizer) or parts.model or parts.optimizer:
        return False
    return any(isinstance(module, torch.nn.Conv2d) for module in model.modules())


def in_layout(
    model: torch.nn.Module,
    config: TrainConfig,
    device: torch.device,
    parts: Parts = OWN_NOTHING,
) -> torch.nn.Module:
    """Return the network on a device, its weights channels_last where it is trained so."""
    if not takes_channels_last(model, config, parts):
        return model.to(device)
    return place(model, device, training_layout(model, device))


def check_loaders(configs: Sequence[TrainConfig], data: Data) -> None:
    """Raise ValueError if the data cannot feed one of the runs."""
    for config in configs:
        make_loader(config, data.train, batch_format(config, torch.device("cpu")))


def make_loader(
    config: TrainConfig, split: Pool, form: BatchFormat, replicas: Replicas = ALONE
) -> Loader:
    """Return the loader of the config's world over `split`, whose labels have its noise."""
    size, steps = config.batch_size, config.steps  # the loaders take them in this order
    common: dict[str, Any] = {
        "seed": config.seed,
        "trial": config.trial,
        "order_seed": config.order_seed,
        "augment_seed": config.augment_seed,
        "augment": config.augment,
        "rank": replicas.rank,
        "world_size": replicas.world_size,
        **form.output,
    }
    # The Ideal World.
    if config.fresh:
        # Disjoint, it leaves out the samples of its Real World.
        cpu = BatchFormat(torch.device("cpu"), normalize=config.normalize)
        twin = replace(config, world="real")
        common["disjoint_from"] = make_loader(twin, split, cpu) if config.disjoint else None
        common["remainder"] = config.remainder
        return IdealLoader(split, size, steps, passes=config.passes, **common)
    common["data_seed"] = config.data_seed  # of the choice of the n samples
    if config.reuse is not None:
        return FixedReuseLoader(split, config.n, size, steps, reuse=config.reuse, **common)
    if config.world == "bootstrap":
        return BootstrapLoader(split, config.n, size, steps, **common)
    return RealLoader(split, config.n, size, steps, remainder=config.remainder, **common)


def make_model(
    config: TrainConfig, data: Data, parts: Parts = OWN_NOTHING, beside: Path | None = None
) -> torch.nn.Module:
    """Return a network for the data's classes and image size, with the config's initial weights
    (`beside` holds the runs that they may be of); ValueError if it cannot take them.
    """
    # The network, then its initial weights, then the head of an objective without labels.
    model = build_model(parts.model) if parts.model is not None else _create(config, data)
    if config.initial is not None:
        model = load_initial(model, config, beside)
    return model if config.objective == "labels" else headed_for(config.objective, model)


def _create(config: TrainConfig, data: Data) -> torch.nn.Module:
    from worlds.models import create

    if not (isinstance(data.train, Split) and data.train.holds_images and data.train.class_names):
        raise ValueError(
            f"{config.arch} takes images of classes, this data has none: give a function that "
            "builds a model"
        )
    # The architectures are for square images.
    height, width, channels = data.train.image_shape
    if height != width:
        raise ValueError(f"the architectures take square images, the data has {height} x {width}")
    return create(config.arch, len(data.train.class_names), height, channels, **config.options)


def noise_of_test(noise: LabelNoise) -> LabelNoise:
    """Return the same noise on test labels, drawn apart from that of the training samples."""
    return replace(noise, trial=noise.trial | 1 << 31)


def validation_samples(
    config: TrainConfig, pool: int, window: int | None = None
) -> np.ndarray | None:
    """Pool indices of the validation samples: those that a larger n would take next. ValueError
    where the pool is too small for both.
    """
    if not config.validation:
        return None
    both = config.n + config.validation
    return subset(pool, both, *config.stream("data"), window=window)[config.n :]


def training_seed(config: TrainConfig) -> int:
    """Return the seed of torch's generator: the same for both worlds."""
    seed, trial = config.stream("init")
    drawn = words(seed, TRAINING, trial, torch.zeros(1, dtype=torch.int64), 1)  # (1, 4)
    return int(drawn[0, 0]) << 31 | int(drawn[0, 1]) >> 1
