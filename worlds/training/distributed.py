"""One run on several GPUs, as torchrun starts them: each makes and trains on its share of every
batch, gradients are averaged, and rank 0 writes the run folder.

    torchrun --nproc-per-node 8 -m worlds.commands.train -- --arch resnet50 ...

All replicas measure for themselves, on equal weights and buffers, so all of them come to the same
decisions and nobody has to be told. Batch norm takes its means over the whole batch, so that the
number of replicas changes no result; `sync_batch_norm=False` takes them over each replica's share.
"""

import os
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import distributed, nn

from worlds.runtime.device import check_device


@dataclass(frozen=True)
class Replicas:
    """This process is `rank` of `world_size`."""

    rank: int = 0
    world_size: int = 1

    @property
    def writes(self) -> bool:
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module whose backward pass averages gradients over the replicas."""
        if self.world_size == 1:
            return model
        # Buffers are made equal at log points, by `equalize`, instead of at every step.
        return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)

    def sync_batch_norm(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The module whose batch norms take means over all replicas; alone it is left as it is."""
        if self.world_size == 1:
            return model
        if device.type == "cuda":
            synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
            return synced
        for module in model.modules():  # torch's own is for GPUs
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.__class__ = _SyncBatchNorm
        return model

    def weigh(self, loss: torch.Tensor, count: int) -> torch.Tensor:
        """The mean over this replica's `count` samples, such that the mean over the replicas is
        that over all samples.
        """
        if self.world_size == 1:
            return loss
        total = torch.tensor(float(count), device=loss.device)
        distributed.all_reduce(total)
        return loss * (count * self.world_size / total)

    def equalize(self, model: nn.Module) -> None:
        """Give all replicas the buffers of rank 0, whose batch norm saw other images."""
        if self.world_size > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, src=0)

    def highest(self, value: torch.Tensor) -> torch.Tensor:
        """The largest of the replicas' values."""
        if self.world_size > 1:
            value = value.clone()
            distributed.all_reduce(value, distributed.ReduceOp.MAX)
        return value

    def wait(self) -> None:
        if self.world_size > 1:
            distributed.barrier()

    def leave(self) -> None:
        """End the group; nothing can be averaged after it."""
        if self.world_size > 1:
            distributed.destroy_process_group()


ALONE: Final = Replicas()


class _Sum(torch.autograd.Function):
    """The sum over the replicas, through which gradients flow to all of them."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return _Sum.forward(ctx, grads[0])


def _sum(value: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return found


class _SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the samples of all replicas, on any device."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Accept any number of dimensions, as the class that it takes the place of has."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(input)
        # Mean and variance of the whole batch, through which gradients flow to every replica.
        x = input.float()
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = _sum(torch.tensor(float(x.numel() / x.shape[1]), device=x.device))
        mean = _sum(x.sum(dims)) / count
        centered = x - mean.view(shape)
        variance = _sum((centered**2).sum(dims)) / count

        # The running means, as torch's own batch norm keeps them.
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            rate = self.momentum or 1 / float(self.num_batches_tracked)
            unbiased = variance.detach() * count / (count - 1).clamp(min=1)
            self.running_mean.lerp_(mean.detach(), rate)
            self.running_var.lerp_(unbiased, rate)

        found = centered * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            found = found * self.weight.view(shape) + self.bias.view(shape)
        return found.to(input.dtype)


def join(device: torch.device) -> tuple[Replicas, torch.device]:
    """The replicas that torchrun started and this one's device; alone without torchrun."""
    asked = os.environ.get("WORLD_SIZE", "1")
    if not asked.isdigit() or not int(asked):
        raise ValueError(f"WORLD_SIZE must be a number, 1 or more, got {asked!r}")
    world_size = int(asked)
    if world_size == 1:
        return ALONE, device
    if device.type == "cuda":
        device = check_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(device)
        distributed.init_process_group("nccl", device_id=device)
    else:
        distributed.init_process_group("gloo")
    return Replicas(distributed.get_rank(), world_size), device
