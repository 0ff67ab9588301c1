"""Builds a model from a checkpoint, everything checked before any memory is taken."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor, nn

from model_server.config import load_config
from model_server.kernels.fp8 import FP8, dequantize_blocks, refine_rows
from model_server.layers.linear import BlockScaledLinear
from model_server.layers.moe import BlockScaledExperts, Experts
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.weights.files import CheckpointError, Source, some
from model_server.weights.layout import MTP_LAYER, QUANTIZED, ROUTER, SCALE, Slot, all_slots
from model_server.weights.scales import Scales, find_scales


def load_model(checkpoint: Path, dtype: torch.dtype, keep_fp8: bool = False) -> MiMoV2Flash:
    """Build the model a folder describes, weights in ``dtype`` (routers always in f32), ready for inference.

    With ``keep_fp8``, attention inputs and feed-forward blocks that are FP8 in the files stay FP8 in memory and are
    dequantised in use (``model_server.layers.linear``): the same results bit for bit in f32, and no gradients.

    Everything :func:`check_checkpoint` does comes first; then memory stays below the weights and one file.

    Raises:
        CheckpointError: anything about the folder is missing, damaged, unexpected or of the wrong shape.
    """
    model, readers, source = _checked(checkpoint, keep_fp8)
    _set_dtype(model, dtype)
    model.to_empty(device="cpu")
    if model.config.tie_word_embeddings:  # to_empty gives each name its own memory
        model.lm_head.weight = model.model.embed_tokens.weight
    parameters = dict(model.named_parameters())
    # Scales before weights: a weight and its scales may be in different files, and only one file is open at a time.
    names = {name for reader in readers.values() if reader.scales for name in reader.scales.names}
    scales = {name: values.to(torch.float32, copy=True) for name, values in source.read(names)}
    for name, values in source.read(readers):
        readers[name].fill(parameters, values, scales)
    return model.eval()


def check_checkpoint(checkpoint: Path, keep_fp8: bool = False) -> MiMoV2Flash:
    """The model a folder describes, without its weights (on torch's meta device).

    Configuration, names, shapes, types and scales are checked against the headers of the files; nothing is read
    beyond them and no memory is taken, so this is quick for a model of any size. The number of prediction layers
    follows from the names.

    Raises:
        CheckpointError: as :func:`load_model`, but for what only the numbers themselves can show.
    """
    return _checked(checkpoint, keep_fp8)[0]


@dataclass(frozen=True, slots=True)
class _Reader:
    """How one slot is filled: with the file's values, with values times scales, or with both as they are."""

    slot: Slot
    scales: Scales | None
    kept_block: tuple[int, int] | None = None
    """Block of the FP8 parameter the slot is part of; None for a plain one."""

    def fill(self, parameters: Mapping[str, Tensor], values: Tensor, scales: Mapping[str, Tensor]) -> None:
        part = self.slot.part_of(parameters)
        if self.scales is None:
            part.copy_(values)
        elif self.kept_block is None:
            part.copy_(dequantize_blocks(values, self.scales.take(scales), self.scales.block))
        else:
            part.copy_(values)
            finer = refine_rows(self.scales.take(scales), self.scales.block[0], self.kept_block[0], len(values))
            self.slot.scales_of(parameters, self.kept_block[0]).copy_(finer)


def _checked(checkpoint: Path, keep_fp8: bool) -> tuple[MiMoV2Flash, dict[str, _Reader], Source]:
    """The model on the meta device, by name in the files how each of its slots is read, and the files."""
    try:
        config = load_config(checkpoint)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint / 'config.json'}: {error}") from error
    source = Source.open(checkpoint)
    with torch.device("meta"):
        model = MiMoV2Flash(config, _num_mtp_layers(source))
    readers = _readers(model, source)
    if keep_fp8:
        readers = _keep_fp8(model, readers)
    return model, {reader.slot.name: reader for reader in readers}, source


def _num_mtp_layers(source: Source) -> int:
    numbers = {match[1] for name in source.headers if (match := MTP_LAYER.match(name))}
    if numbers != {str(number) for number in range(len(numbers))}:
        raise CheckpointError(f"prediction layers are not numbered from 0 on: {some(sorted(numbers))}")
    return len(numbers)


def _readers(model: MiMoV2Flash, source: Source) -> list[_Reader]:
    """A reader for every slot, everything checked against the headers.

    Raises:
        CheckpointError: names missing or unexpected, wrong shapes, scales missing.
    """
    slots = all_slots(model)
    missing = [slot.name for slot in slots if slot.name not in source.headers]
    if missing:
        raise CheckpointError(f"missing weights: {some(missing)}")
    for slot in slots:
        header = source.headers[slot.name]
        if header.shape != slot.shape:
            raise CheckpointError(
                f"{header.path}: {slot.name} has shape {list(header.shape)}, the configuration gives {list(slot.shape)}"
            )
    readers = [
        _Reader(slot, find_scales(slot, model.config, source) if source.is_fp8(slot.name) else None) for slot in slots
    ]
    known = {slot.name for slot in slots} | {reader.scales.name for reader in readers if reader.scales}
    unexpected = sorted(set(source.headers) - known)
    if unexpected:
        raise CheckpointError(f"unexpected weights: {some(unexpected)}")
    return readers


def _keep_fp8(model: MiMoV2Flash, readers: Sequence[_Reader]) -> list[_Reader]:
    """Give the model FP8 modules (on the meta device) where the files have FP8 for the whole of a module."""
    blocks: dict[str, tuple[int, int]] = {}
    by_module = {
        module: list(group)
        for module, group in groupby(readers, lambda reader: reader.slot.parameter.rpartition(".")[0])
    }
    for module, group in by_module.items():
        if all(reader.scales and QUANTIZED.search(reader.slot.name) for reader in group):
            blocks |= _replace(model, module, group)
    return [_Reader(reader.slot, reader.scales, blocks.get(reader.slot.parameter)) for reader in readers]


def _replace(model: MiMoV2Flash, name: str, readers: Sequence[_Reader]) -> dict[str, tuple[int, int]]:
    """Put an FP8 module in the place of a plain one; returns the blocks of its parameters."""
    blocks: dict[str, tuple[int, int]] = {}
    for reader in readers:
        assert reader.scales is not None
        so_far = blocks.get(reader.slot.parameter, reader.scales.block)
        blocks[reader.slot.parameter] = (math.gcd(so_far[0], reader.slot.first_row), so_far[1])
    shapes = {parameter: tuple(model.get_parameter(parameter).shape) for parameter in blocks}
    module: nn.Module
    with torch.device("meta"):
        if isinstance(model.get_submodule(name), Experts):
            gate_up, down = f"{name}.gate_up", f"{name}.down"
            module = BlockScaledExperts(shapes[gate_up], shapes[down], blocks[gate_up], blocks[down])
        else:
            module = BlockScaledLinear(shapes[f"{name}.weight"], blocks[f"{name}.weight"])
    model.set_submodule(name, module)
    return blocks


def _set_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        if parameter.dtype != FP8:
            parameter.data = parameter.data.to(torch.float32 if name.endswith((*ROUTER, SCALE)) else dtype)
