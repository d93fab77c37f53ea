"""Hold a network's config against its weights while the network is built.

A config says in a few characters how large a network is. One that asks for a billion layers would
be built for hours, or fill the memory, before a missing tensor could be noticed.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

# Some networks register a parameter again, or build a head that they replace.
_SLACK_TENSORS, _SLACK_NUMBERS = 100, 10_000_000


@contextmanager
def bounded_by(weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Raise ValueError as soon as a network that is built in this context has far more parameters
    than these weights hold.
    """
    # Counted as the network is built, so that a huge one is refused early.
    most_tensors = 2 * len(weights) + _SLACK_TENSORS
    most_numbers = 2 * sum(tensor.numel() for tensor in weights.values()) + _SLACK_NUMBERS
    tensors = numbers = 0

    def count(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter) -> None:
        nonlocal tensors, numbers
        tensors, numbers = tensors + 1, numbers + parameter.numel()
        if tensors > most_tensors or numbers > most_numbers:
            raise ValueError(
                f"config.json describes a far larger network than the weights, which hold "
                f"{len(weights):,} tensors"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
