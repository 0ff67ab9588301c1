"""What runs the steps of an engine, and the choice of it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from model_server.config import ModelConfig
from model_server.engine.cpu_backend import CpuBackend
from model_server.engine.cpu_drafter import CpuDrafter
from model_server.engine.drafter import Drafter
from model_server.engine.drafting import TokenDrafter
from model_server.engine.torch_backend import TorchBackend
from model_server.kernels.batch import CachePools, Segment, StepOutput
from model_server.kernels.cpu.build import NoLibrary
from model_server.kernels.cpu.library import Library, best_library
from model_server.models.mimo_v2_flash import MiMoV2Flash


class StepBackend(Protocol):
    """A model packed for one kind of machine. Owns no sequences and decides nothing."""

    def step(self, batch: Sequence[Segment], pools: CachePools) -> StepOutput:
        """Run all segments; store their keys and values in the pools, always the same ones.

        A failed step may be run again, whole or in part: it stores the same under the same positions.
        """


@runtime_checkable
class DecodingBackend(StepBackend, Protocol):
    """One that can run several steps of greedy sequences by itself."""

    most_together: int
    """Sequences, at most."""

    def decode(
        self, segments: Sequence[Segment], pools: CachePools, most: int, stops: Collection[int], *, keep_logits: bool
    ) -> StepOutput:
        """Run the one token of each segment and then the likeliest after it, at most ``most`` in all, until one of
        these is in ``stops`` or not known. As many rows for each segment, with their logits if these are to be
        kept; the last likeliest tokens were not run.
        """


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint, ready to run."""

    config: ModelConfig
    backend: StepBackend
    drafter: TokenDrafter


Kernels = Literal["auto", "ref", "cpu", "cpu-bf16"]
"""`cpu-bf16` is `cpu` with products of bf16 numbers where matrices are stored so: faster, and less exact."""


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """Which backend is to run, and why, for the log."""

    name: Literal["ref", "cpu"]
    reason: str
    library: Library | None
    num_threads: int = 1
    """That share a step of `cpu` where that is faster."""

    def build(self, model: MiMoV2Flash, context_length: int) -> tuple["StepBackend", TokenDrafter]:
        """A model's backend and drafter.

        `cpu` takes the memory of the layers' weights over: the model cannot run by itself any more.

        Raises:
            ValueError: weights cannot be packed.
        """
        if self.library is None:
            return TorchBackend(model, context_length), Drafter(model, context_length)
        backend = CpuBackend(model, context_length, self.library, take_weights=True, num_threads=self.num_threads)
        return backend, CpuDrafter(backend)


def choose_kernels(wanted: Kernels, num_threads: int = 1) -> KernelChoice:
    """`auto` is `cpu` where that can be had. May compile, for some seconds.

    Raises:
        NoLibrary: `cpu` or `cpu-bf16` is wanted and cannot be had.
    """
    if wanted == "ref":
        return KernelChoice("ref", "asked for", None)
    try:
        library = best_library(pairs=wanted == "cpu-bf16")
    except NoLibrary as error:
        if wanted != "auto":
            raise
        return KernelChoice("ref", str(error), None)
    return KernelChoice("cpu", library.variant, library, num_threads)
