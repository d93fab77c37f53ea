"""One run on several GPUs, as torchrun starts them: each makes and trains on its share of every
batch, gradients are averaged, and rank 0 writes the run folder.

    torchrun --nproc-per-node 8 -m worlds.commands.train -- --model resnet50 ...

All replicas measure for themselves, on equal weights and buffers, so all of them come to the same
decisions and nobody has to be told. Batch norm takes its means over the whole batch, so that the
number of replicas changes no result; `sync_batch_norm=False` takes them over each replica's share.
"""

import os
from dataclasses import dataclass
from typing import Final

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
        """Return the module with a backward pass that averages gradients over the replicas."""
        if self.world_size == 1:
            return model
        # Buffers are made equal at log points, by `broadcast_buffers`, instead of at every step.
        return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)

    def sync_batch_norm(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return the module with batch norms over the samples of all replicas."""
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
        """Return the mean over this replica's `count` samples, weighted so that the mean over the
        replicas is that over all samples.
        """
        if self.world_size == 1:
            return loss
        total = torch.tensor(float(count), device=loss.device)
        distributed.all_reduce(total)
        return loss * (count * self.world_size / total)

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give all replicas the buffers of rank 0, whose batch norm saw other images."""
        if self.world_size > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, src=0)

    def all_reduce_max(self, value: torch.Tensor) -> torch.Tensor:
        """Return the largest of the replicas' values."""
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


class _SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the samples of all replicas, on any device."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Accept any number of dimensions, as the class that it takes the place of has."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        from torch.distributed.nn.functional import all_reduce

        if not self.training:
            return super().forward(input)
        # Mean and variance of the whole batch, through which gradients flow to every replica.
        x = input.float()  # (B, C, ...)
        dims = [0, *range(2, x.ndim)]  # all but channels
        shape = [1, -1] + [1] * (x.ndim - 2)  # of a number a channel
        count = all_reduce(torch.tensor(float(x.numel() / x.shape[1]), device=x.device))
        mean = all_reduce(x.sum(dims)) / count  # (C,)
        centered = x - mean.view(shape)
        variance = all_reduce((centered**2).sum(dims)) / count  # (C,)

        # The running means, as torch's own batch norm keeps them.
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            rate = self.momentum or 1 / float(self.num_batches_tracked)
            unbiased = variance.detach() * count / (count - 1).clamp(min=1)
            self.running_mean.lerp_(mean.detach(), rate)
            self.running_var.lerp_(unbiased, rate)

        # Normalize, then scale and shift, in the precision of the input.
        found = centered * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            found = found * self.weight.view(shape) + self.bias.view(shape)
        return found.to(input.dtype)


def join(device: torch.device) -> tuple[Replicas, torch.device]:
    """Join the replicas that torchrun started; return them and this device. Alone without it."""
    # What torchrun puts in the environment.
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
