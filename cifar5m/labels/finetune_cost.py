"""The cost of a fine-tuning in time and memory, by two small steps on this device."""

import time
from collections.abc import Callable, Iterator

import torch
from msgspec.structs import replace
from torch.autograd.graph import saved_tensors_hooks

from cifar5m.labels.finetune import Trainer

_SAMPLED = 8  # images of a small step


def measure_cost(trainer: Trainer, micro_batch: int | None) -> Iterator[str]:
    """Yield lines on the time and memory of a run of the trainer's plan; its weights change."""
    plan, network = trainer.plan, trainer.network
    # Two small steps; the first warms up.
    small = min(plan.batch, micro_batch or _SAMPLED, _SAMPLED)
    sample = Trainer(replace(plan, batch=small), network, trainer.train, trainer.device)
    kept = saved_bytes(network, lambda: sample.one_step(small)) / small  # an image
    start = time.perf_counter()
    sample.one_step(small)
    seconds = (time.perf_counter() - start) / small * plan.batch  # a step
    parameters = sum(parameter.numel() for parameter in network.parameters())
    yield (
        f"{parameters:,} parameters; {seconds:.3g} s a step by {small} images on {trainer.device}, "
        f"{seconds * trainer.steps / 3600:.3g} hours for {trainer.steps:,} steps; nothing written"
    )
    images = micro_batch or plan.batch
    fixed = 3 * 4 * parameters  # weights, gradients and momentum in float32
    yield (
        f"memory of the device: at least {(fixed + kept * images) / 2**30:.3g} GiB with "
        f"--micro-batch {images}, {kept / 2**20:.3g} MiB an image"
    )


def saved_bytes(network: torch.nn.Module, step: Callable[[], object]) -> int:
    """Return the bytes beside the weights that a step keeps for its backward pass."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}  # by address: several operations keep one tensor once

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    return sum(size for address, size in kept.items() if address not in weights)
