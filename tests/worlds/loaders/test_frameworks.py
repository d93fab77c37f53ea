"""Loaders where a torch DataLoader is expected, and samplers in one, under the frameworks that
people train with; each test runs where its framework is installed.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import worlds.runtime.torchvision_ops  # noqa: F401
from worlds import ArrayStore, IdealSampler, RealLoader, RealSampler, SequentialLoader

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


class Indexed(Dataset):
    """Items of another dataset with their index, as (pixels, index)."""

    def __init__(self, inner, pixels):
        self.inner, self.pixels = inner, pixels

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        return torch.as_tensor(self.pixels(self.inner[index])).float().flatten(), index


def image_folder(root):
    from torchvision.datasets import ImageFolder

    for k in range(60):
        path = root / f"class{k % 3}" / f"{k // 3:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), k, np.uint8)).save(path)
    return Indexed(ImageFolder(root), lambda item: np.asarray(item[0]))


def fake_data(root):
    from torchvision.datasets import FakeData

    return Indexed(FakeData(60, (3, 8, 8), 10), lambda item: np.asarray(item[0]))


def hugging_face(root):
    from datasets import Dataset as Table

    table = Table.from_dict({"pixels": np.arange(60 * 8).reshape(60, 8).tolist()})
    return Indexed(table, lambda item: np.asarray(item["pixels"]))


def tokens(root):
    stream = np.arange(60 * 8 + 1) % 50
    return Indexed([stream[k * 8 : k * 8 + 8] for k in range(60)], lambda item: item)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", [image_folder, fake_data, hugging_face, tokens])
def test_a_sampler_serves_the_datasets_that_people_have(make, workers, tmp_path):
    dataset = make(tmp_path)
    real, ideal = RealSampler(60, 25, 8, 9), IdealSampler(60, 8)
    for sampler in (real, ideal):
        loader = DataLoader(dataset, batch_sampler=sampler, num_workers=workers)
        found = [(x.shape[0], index.tolist()) for x, index in loader]
        assert found == [(8, sampler.indices(k).tolist()) for k in range(len(sampler))]


def test_a_table_is_read_a_batch_at_a_time():
    table = pytest.importorskip("datasets").Dataset.from_dict({"k": list(range(60))})
    sampler = RealSampler(60, 25, 8, 9)
    loader = DataLoader(table.with_format("torch"), batch_sampler=sampler)
    assert [batch["k"].tolist() for batch in loader] == [
        sampler.indices(k).tolist() for k in range(9)
    ]


def test_lightning_trains_on_a_sampler_and_goes_on():
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = torch.nn.Linear(8, 1), []

        def training_step(self, batch, step):
            self.seen.append(batch[1].tolist())
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-6)

    dataset, module = tokens(None), Module()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    for start, stop in ((0, 9), (9, 14)):
        trainer = lightning.Trainer(max_steps=stop - start, accelerator="cpu", **quiet)
        sampler = RealSampler(60, 25, 8, stop, start_step=start)
        trainer.fit(module, DataLoader(dataset, batch_sampler=sampler))
    whole = RealSampler(60, 25, 8, 14)
    assert module.seen == [whole.indices(k).tolist() for k in range(14)]


def test_accelerate_prepares_a_loader_with_a_sampler():
    accelerate = pytest.importorskip("accelerate")
    sampler = RealSampler(60, 25, 8, 9)
    loader = DataLoader(tokens(None), batch_sampler=sampler)
    prepared = accelerate.Accelerator(cpu=True).prepare(loader)
    assert [index.tolist() for _, index in prepared] == [
        sampler.indices(k).tolist() for k in range(9)
    ]


REPLICAS = """
import os, sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from worlds import RealSampler

# Two processes of one start of torch; each prints to a file of its own.
other = os.fork()
folder, rank = sys.argv[1], 1 if other else 0
sys.stdout = open(f"{folder}/{rank}", "w")
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
data = torch.utils.data.TensorDataset(torch.rand(60, 8), torch.arange(60))
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), 1e-5)
sampler = RealSampler(60, 25, 8, 9, rank=rank, world_size=2)
for x, index in DataLoader(data, batch_sampler=sampler):
    print(*index.tolist())
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
print("weights", *[round(float(w), 6) for w in model.module.weight.flatten()])
dist.destroy_process_group()
if other:
    assert os.waitpid(other, 0)[1] == 0
"""


def test_two_replicas_share_each_batch_and_keep_equal_weights(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", REPLICAS, str(tmp_path)]
    subprocess.run(command, check=True, timeout=100)
    lines = [(tmp_path / str(rank)).read_text().splitlines() for rank in (0, 1)]
    assert lines[0][-1] == lines[1][-1]
    assert lines[0][-1].startswith("weights")
    shares = [[list(map(int, line.split())) for line in own[:-1]] for own in lines]
    whole = RealSampler(60, 25, 8, 9)
    assert [a + b for a, b in zip(*shares, strict=True)] == [
        whole.indices(k).tolist() for k in range(9)
    ]
