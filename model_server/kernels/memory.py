"""Memory in huge pages, where the system has them.

Weights and caches are read far apart, and with pages of 4 KiB a good part of a step's time goes into looking up where
they are.
"""

import math
import mmap

import torch
from torch import Tensor

_HUGE_PAGE = 2 * 1024**2
_ARENA_BYTES = 256 * 1024**2
"""Address space taken at a time. Memory comes with the first write, so what is left over costs nothing."""
_ALIGNMENT = 64


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Uninitialised; the system gives memory to what is written, not before."""
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes < _HUGE_PAGE:
        return torch.empty(shape, dtype=dtype)
    return _mapped(num_bytes)[:num_bytes].view(dtype).view(shape)


def is_exhausted(error: Exception) -> bool:
    """Whether there was no memory to be had. On a CPU, PyTorch has nothing but words for that."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


class Arena:
    """Copies of tensors, side by side."""

    def __init__(self) -> None:
        self._rest = torch.empty(0, dtype=torch.uint8)
        self.num_bytes = 0
        """Of all copies."""

    def hold(self, tensor: Tensor) -> Tensor:
        """A contiguous copy that lives as long as somebody has it."""
        size = tensor.numel() * tensor.element_size()
        if size > len(self._rest):
            self._rest = _mapped(max(size, _ARENA_BYTES))
        copy = self._rest[:size].view(tensor.dtype).view(tensor.shape).copy_(tensor)
        self._rest = self._rest[-(-size // _ALIGNMENT) * _ALIGNMENT :]
        self.num_bytes += size
        return copy


def _mapped(num_bytes: int) -> Tensor:
    """At least so many bytes, from the beginning of a huge page on."""
    # Private, unlike what mmap does by itself: most systems give huge pages to no memory that could be shared.
    region = mmap.mmap(-1, num_bytes + 2 * _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        region.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(region, dtype=torch.uint8)
    return whole[-whole.data_ptr() % _HUGE_PAGE :]
