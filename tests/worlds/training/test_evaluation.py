"""How many images are evaluated at once, and what memory that takes."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from worlds import ArrayStore
from worlds.models import create
from worlds.training.evaluation import evaluation_batch

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def pool_of(side):
    return ArrayStore(np.zeros((1, side, side, 3), np.uint8), [0]).train


@pytest.mark.parametrize(
    "device, side, images", [(CPU, 224, 100), (GPU, 32, 2000), (GPU, 224, 40), (GPU, 512, 32)]
)
def test_a_gpu_takes_fewer_images_the_larger_they_are(device, side, images):
    assert evaluation_batch(device, pool_of(side)) == images


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the bytes of the largest tensor that an operation makes."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.bytes = max(self.bytes, made.numel() * made.element_size())
        return made


@pytest.mark.parametrize("arch", ["resnet50", "vgg16"])
def test_an_evaluation_at_224_pixels_fits_a_small_gpu(arch):
    """On fake tensors: no activation is above half a gibibyte (with 2,000 images it is 24)."""
    with FakeTensorMode(), Largest() as seen, torch.no_grad():
        network = create(arch, 10, 224).eval()
        network(torch.empty(evaluation_batch(GPU, pool_of(224)), 3, 224, 224))
    assert 1 << 26 < seen.bytes < 1 << 29
