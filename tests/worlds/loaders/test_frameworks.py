"""Loaders where a torch DataLoader is expected; each test runs where its framework is installed."""

import numpy as np
import pytest
import torch

import worlds.runtime.torchvision_ops  # noqa: F401
from worlds import ArrayStore, RealLoader, SequentialLoader

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks' own


def make_pool():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    return ArrayStore(images, rng.integers(0, 10, 300)).train


def test_lightning_trains_and_validates():
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3072, 10)
            self.trained, self.validated = [], 0

        def training_step(self, batch, index):
            self.trained.append(batch[1].tolist())
            return torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

        def validation_step(self, batch, index):
            self.validated += len(batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    pool, module = make_pool(), Module()
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, RealLoader(pool, 90, 32, remainder="short"), SequentialLoader(pool, 64))
    expected = [y.tolist() for _, y in RealLoader(pool, 90, 32, 6, remainder="short")]
    assert module.trained == expected
    assert module.validated == 600


def test_accelerate_leaves_the_batches_as_they_are():
    accelerate = pytest.importorskip("accelerate")
    pool = make_pool()
    prepared = accelerate.Accelerator(cpu=True).prepare(RealLoader(pool, 90, 32, 10))
    expected = [y.tolist() for _, y in RealLoader(pool, 90, 32, 10)]
    assert [y.tolist() for _, y in prepared] == expected
