"""Data-parallel training on one machine: one process per core, gradients averaged after every step."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

_RANK = "NANO_RANK"


class Ranks:
    """The processes of one run. With a single one, nothing is communicated."""

    def __init__(self, size: int, rendezvous: Path) -> None:
        self.size = size
        self.rank = int(os.environ.get(_RANK, "0"))
        self._children: list[subprocess.Popen[bytes]] = []
        if size == 1:
            return
        if self.rank == 0:
            rendezvous.unlink(missing_ok=True)
            self._children = [_start(rank) for rank in range(1, size)]
        dist.init_process_group("gloo", init_method=f"file://{rendezvous.absolute()}", rank=self.rank, world_size=size)

    def close(self) -> None:
        if self.size > 1:
            dist.destroy_process_group()
        for child in self._children:
            child.wait()

    def average(self, tensors: list[Tensor]) -> None:
        """Replace every tensor by its mean over the processes."""
        for tensor, mean in zip(tensors, self._sum(tensors), strict=True):
            tensor.copy_(mean / self.size)

    def sum(self, tensors: list[Tensor]) -> None:
        """Replace every tensor by its sum over the processes."""
        for tensor, total in zip(tensors, self._sum(tensors), strict=True):
            tensor.copy_(total)

    def least(self, count: int) -> int:
        """The smallest of the processes' counts."""
        if self.size == 1:
            return count
        value = torch.tensor(count)
        dist.all_reduce(value, op=dist.ReduceOp.MIN)
        return int(value)

    def total(self, count: int) -> int:
        """The sum of the processes' counts."""
        if self.size == 1:
            return count
        value = torch.tensor(count)
        dist.all_reduce(value)
        return int(value)

    def same(self, flag: bool) -> bool:
        """What process 0 says."""
        if self.size == 1:
            return flag
        value = torch.tensor(int(flag))
        dist.broadcast(value, src=0)
        return bool(value)

    def _sum(self, tensors: list[Tensor]) -> Iterable[Tensor]:
        """One message for all of them, in bf16: twice the bandwidth, and updates are noisier than its rounding."""
        if self.size == 1:
            return tensors
        flat = torch.cat([tensor.flatten().bfloat16() for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def _start(rank: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env={**os.environ, _RANK: str(rank)})
