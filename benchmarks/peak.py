"""What the machine's arithmetic can do: the product of two large matrices, timed in turns with what
is measured beside it.
"""

import torch


class Product:
    """One product of square matrices of `dtype` a call; `flop` floating-point operations."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        size = 8192 if device.startswith("cuda") else 2048
        self.a, self.b = torch.ones(2, size, size, device=device, dtype=dtype)
        self.flop = 2 * size**3

    def __call__(self) -> None:
        torch.mm(self.a, self.b)
        if self.a.is_cuda:
            torch.cuda.synchronize()

    def gflops(self, seconds: float) -> float:
        """Return the speed of a call of so many seconds, in 10^9 operations a second."""
        return self.flop / seconds / 1e9
