"""The files of a checkpoint: what their headers say, and their tensors, one file open at a time."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model_server.kernels.fp8 import FP8

INDEX = "model.safetensors.index.json"
_CHECKED_AT_ONCE = 2**20
"""Numbers looked at together: what the look takes is small beside a file."""


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message names the file or the weight, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about one of its tensors."""

    path: Path
    shape: tuple[int, ...]
    dtype: str
    """safetensors' name of the type."""


class Source:
    """The files of a checkpoint: every name once, headers known, tensors on request."""

    def __init__(self, headers: Mapping[str, Header]) -> None:
        self.headers = headers

    @classmethod
    def open(cls, checkpoint: Path) -> "Source":
        """Raises CheckpointError: a file is damaged, or the files and the index disagree."""
        headers: dict[str, Header] = {}
        for path in _weight_files(checkpoint):
            for name, header in _read_headers(path):
                if name in headers:
                    raise CheckpointError(f"{path}: {name} is also in {headers[name].path.name}")
                headers[name] = header
        _check_index(checkpoint, headers)
        return cls(headers)

    def is_fp8(self, name: str) -> bool:
        """Raises CheckpointError for a type that is no weight's."""
        header = self.headers[name]
        if header.dtype not in ("F8_E4M3", "BF16", "F16", "F32"):
            raise CheckpointError(f"{header.path}: {name} has type {header.dtype}, expected F8_E4M3, BF16, F16 or F32")
        return header.dtype == "F8_E4M3"

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """The tensors of these names, file by file. A tensor lies in its open file: use it before taking the next.

        Open files count as this process's memory once read, so there is never more than one.
        """
        by_path = sorted(names, key=lambda name: (self.headers[name].path, name))
        for path, group in groupby(by_path, key=lambda name: self.headers[name].path):
            try:
                with safe_open(path, framework="pt") as file:
                    for name in group:
                        values = file.get_tensor(name)
                        _check_finite(path, name, values)
                        yield name, values
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path}: {error}") from error


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _read_headers(path: Path) -> Iterator[tuple[str, Header]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                part = file.get_slice(name)
                yield name, Header(path, tuple(part.get_shape()), part.get_dtype())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _check_finite(path: Path, name: str, values: Tensor) -> None:
    """One damaged number would make every answer of the model nothing but damage."""
    if not all(_finite(part) for part in values.flatten().split(_CHECKED_AT_ONCE)):
        raise CheckpointError(f"{path}: {name} has values that are no numbers")


def _finite(values: Tensor) -> bool:
    if values.dtype == FP8:  # it has no infinity, and for what is no number one pattern beside the sign
        return not bool(((values.view(torch.uint8) & 0x7F) == 0x7F).any())
    return bool(values.isfinite().all())


def _weight_files(checkpoint: Path) -> list[Path]:
    files = sorted({checkpoint / name for name in _index(checkpoint).values()} or checkpoint.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{checkpoint}: no *.safetensors file")
    return files


def _check_index(checkpoint: Path, headers: Mapping[str, Header]) -> None:
    index = _index(checkpoint)
    found = {name: header.path.name for name, header in headers.items()}
    if index and index != found:
        wrong = sorted(name for name, _ in index.items() ^ found.items())
        raise CheckpointError(f"{checkpoint / INDEX}: the files disagree about {some(wrong)}")


def _index(checkpoint: Path) -> dict[str, str]:
    """Weight name to file name; empty without an index."""
    path = checkpoint / INDEX
    if not path.exists():
        return {}
    try:
        weight_map = json.loads(path.read_text("utf-8"))["weight_map"]
        # A name that leads out of the folder is nobody's honest shard.
        if any(Path(file).name != file for file in weight_map.values()):
            raise CheckpointError(f"{path}: a shard is outside the folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: no usable weight_map ({error!r})") from error
    return dict(weight_map)
