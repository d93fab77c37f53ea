"""Several micro-batches at a time on one GPU: each by a CUDA graph of its network call, on a stream
of its own, so that the memory-bound kernels of one run beside the matrix products of another.

A micro-batch keeps its shape and its kernels, so its bits are those it has alone.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from cifar5m.sampling.diffusion import Predict
from worlds.runtime.device import replay_of
from worlds.runtime.selfcheck import passes

TimedPredict = Callable[[torch.Tensor, int | torch.Tensor], torch.Tensor]  # t may be on the device


def one_by_one(predictors: Sequence[TimedPredict]) -> Predict:
    """Return the predictor of several equal micro-batches, one call after the other."""

    def predict(x: torch.Tensor, t: int) -> torch.Tensor:
        step = torch.full((), t, device=x.device)
        parts = x.chunk(len(predictors))
        calls = zip(predictors, parts, strict=True)
        return torch.cat([predictor(part, step) for predictor, part in calls])

    return predict


def side_by_side(predictors: Sequence[TimedPredict], x: torch.Tensor, what: str) -> Predict:
    """Return the predictor that calls them at the same time, for batches shaped like x; one by one
    if that makes other bits here or fails. `what` names the network, for the check.
    """
    plain, made = one_by_one(predictors), list[Predict]()

    def is_equal() -> bool:
        fast = _captured(predictors, x)
        made.append(fast)
        return all(torch.equal(fast(x, t), plain(x, t)) for t in (500, 20))

    if not passes(f"{len(predictors)} streams, {what}", x.device, is_equal, "one stream"):
        return plain
    return made[0] if made else _captured(predictors, x)


def _captured(predictors: Sequence[TimedPredict], x: torch.Tensor) -> Predict:
    device = x.device
    streams = [torch.cuda.Stream(device) for _ in predictors]
    step = torch.zeros((), dtype=torch.int64, device=device)
    inputs = [part.clone() for part in x.chunk(len(predictors))]
    replays = [
        replay_of(partial(predictor, given, step), device, stream)
        for predictor, given, stream in zip(predictors, inputs, streams, strict=True)
    ]

    def predict(x: torch.Tensor, t: int) -> torch.Tensor:
        # Each stream waits for the inputs, and this one for all results.
        current = torch.cuda.current_stream(device)
        step.fill_(t)
        found, parts = [], x.chunk(len(inputs))
        for stream, given, part, replay in zip(streams, inputs, parts, replays, strict=True):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                given.copy_(part)
                found.append(replay())
        for stream in streams:
            current.wait_stream(stream)
        return torch.cat(found)  # the next replay overwrites them

    return predict
