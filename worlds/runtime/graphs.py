"""Capture what a function launches on a GPU as one CUDA graph."""

from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def capture(
    run: Callable[[], Result], device: torch.device, stream: "torch.cuda.Stream"
) -> tuple["torch.cuda.CUDAGraph", Result]:
    """Return the graph of `run`, and its result, which each replay writes anew.

    `run` was called before on `stream`, and makes what it launches there. Raises RuntimeError if
    it cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    current = torch.cuda.current_stream(device)
    # "thread_local": other threads, which load batches, may use the device meanwhile. The outer
    # stream is current again also after a capture that fails, torch forgets it then.
    with (
        torch.cuda.device(device),
        torch.cuda.stream(current),
        torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
    ):
        return graph, run()
