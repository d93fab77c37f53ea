"""One run on several GPUs, as torchrun starts them: each makes and trains on its share of every
batch, gradients are averaged, and rank 0 writes the run folder.

    torchrun --nproc-per-node 8 -m worlds.commands.train -- --arch resnet50 ...

All replicas measure for themselves, on equal weights and buffers, so all of them come to the same
decisions and nobody has to be told. Batch norm sees the share of its replica, as in the paper's
code.
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
        """The module whose backward pass averages gradients over the replicas."""
        if self.world_size == 1:
            return model
        # Buffers are made equal at log points, by `equalise`, instead of at every step.
        return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)

    def equalise(self, model: nn.Module) -> None:
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


def join(device: torch.device) -> tuple[Replicas, torch.device]:
    """The replicas that torchrun started and this one's device; alone without torchrun."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return ALONE, device
    if device.type == "cuda":
        device = check_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(device)
        distributed.init_process_group("nccl", device_id=device)
    else:
        distributed.init_process_group("gloo")
    return Replicas(distributed.get_rank(), world_size), device
