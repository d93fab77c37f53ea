"""Devices and precisions: pick, check and name a device; run a network in a precision.

device = pick_device("auto")
with float32_products("tf32"):                     # once for a job
    with in_precision("tf32", device): ...         # for each call: changes no flag again
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

Result = TypeVar("Result")
AUTOCAST_DTYPES: Final = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "bf16-weights": torch.bfloat16,
}


def pick_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """Return the device of a name: `auto` is a GPU if there is one, else the CPU.

    Of several GPUs, `auto` and `cuda` take number `local_rank`, modulo their count.
    """
    # "auto" takes a GPU if there is one; ranks of a node take one each.
    count = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if count else "cpu"
    if name == "cuda" and count:
        name = f"cuda:{local_rank % count}"
    return check_device(name)


def check_device(device: str | torch.device) -> torch.device:
    """Return the device of a name; raises ValueError if this machine has no such CPU or GPU."""
    # A name that torch does not know is told as a device of another kind is.
    try:
        target = torch.device(device)
    except (RuntimeError, TypeError):
        target = None
    if target is None or target.type not in ("cpu", "cuda"):
        raise ValueError(f'device must be "cpu", "cuda" or "cuda:K", got {str(device)!r}')
    count = torch.cuda.device_count()
    if target.type == "cuda" and (target.index or 0) >= count:
        raise ValueError(f'device {str(target)!r}: this machine has {count} usable GPUs; try "cpu"')
    return target


def device_name(device: torch.device) -> str:
    """Return the name that records give a device: its type, or the model of a GPU and the driver,
    which decide bits beside the versions in the plan.
    """
    if device.type != "cuda":
        return device.type
    return f"{torch.cuda.get_device_name(device)}, driver {driver_version()}"


def driver_version() -> str:
    """Return the version of NVIDIA's kernel driver, "unknown" if the system does not name it."""
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return "unknown"


def cuda_versions() -> dict[str, str]:
    """Return the versions that decide bits on CUDA, beside those of Python packages; empty for a
    torch without CUDA.
    """
    if torch.version.cuda is None:
        return {}
    found = {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
    with suppress(PackageNotFoundError):
        found["triton"] = version("triton")
    return found


def on_device(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Return the network in evaluation mode on a device, its memory channels_last."""
    return place(network, device, torch.channels_last).eval()


def place(
    network: torch.nn.Module, device: torch.device, layout: torch.memory_format
) -> torch.nn.Module:
    """Return the network on a device, its weights of four dimensions in a memory format."""
    given: Any = {"memory_format": layout}  # torch's type stubs do not know it
    return network.to(device).to(**given)


def training_layout(network: torch.nn.Module, device: torch.device) -> torch.memory_format:
    """Return the memory format in which a network of convolutions is trained: channels_last, which
    is faster, where its gradients are right.

    On a CPU oneDNN's gradients of strided channels_last convolutions whose channels are no multiple
    of 16 read beyond their memory: they are wrong, or the process dies (torch 2.13, AVX-512).
    """
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    odd = [c for c in convolutions if max(c.stride) > 1 and c.in_channels // c.groups % 16]
    return torch.contiguous_format if device.type == "cpu" and odd else torch.channels_last


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Run CUDA's float32 matrix products and convolutions in TF32 if `precision` is tf32.

    Sets torch's process-wide flags, unless they already say so, and restores them.
    """
    # Flags that already say so are left alone: setting them costs a call of the driver.
    before = _read_flags()
    wanted = tuple("tf32" if precision == "tf32" else "ieee" for _ in before)
    if before == wanted:
        yield
        return
    _write_flags(wanted)
    try:
        yield
    finally:
        _write_flags(before)


@contextmanager
def float32_by_choice() -> Iterator[None]:
    """Silence Inductor's advice to take TF32 while it compiles a network for float32."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")
        yield


@contextmanager
def fixed_algorithms() -> Iterator[None]:
    """Let cuDNN choose neither by timing nor among algorithms that differ from run to run."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


@contextmanager
def in_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Run a network in a precision, equally on equal devices; fp32 means fp32, also on CUDA."""
    # Half precisions by autocast, TF32 by the flags.
    half = AUTOCAST_DTYPES.get(precision)
    autocast = torch.autocast(device.type, half, enabled=half is not None)
    with float32_products(precision), fixed_algorithms(), autocast:
        yield


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


def replay_of(
    run: Callable[[], Result], device: torch.device, stream: "torch.cuda.Stream"
) -> Callable[[], Result]:
    """Return a function that does what `run` does, as one graph; each call overwrites the result
    of the last.
    """
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        run()  # libraries choose their algorithms and memory before a capture
    torch.cuda.synchronize(device)
    graph, result = capture(run, device, stream)

    def replay() -> Result:
        graph.replay()
        return result

    return replay


def _backends() -> list[Any]:
    """Return the parts of torch that have a flag each."""
    if _has_new_flags():
        cudnn = torch.backends.cudnn
        return [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]  # type: ignore[attr-defined]
    return [torch.backends.cuda.matmul, torch.backends.cudnn]


def _has_new_flags() -> bool:
    """Return whether torch (2.9 and later) names precisions; then its old flags may raise."""
    return hasattr(torch.backends.cuda.matmul, "fp32_precision")


def _read_flags() -> tuple[str, ...]:
    if _has_new_flags():
        return tuple(backend.fp32_precision for backend in _backends())
    return tuple("tf32" if backend.allow_tf32 else "ieee" for backend in _backends())


def _write_flags(values: tuple[str, ...]) -> None:
    for backend, value in zip(_backends(), values, strict=True):
        if _has_new_flags():
            backend.fp32_precision = value
        else:
            backend.allow_tf32 = value == "tf32"
