"""Checkpoints in the hub's layout, to our modules and back.

safetensors only: a checkpoint is data, never code. Quantised weights are e4m3 values with one f32 scale per block
(``<name>_scale_inv``); the weight is value times scale. Experts have a name each in the files and are stacked here.

Scales of keys and values come in two layouts, told apart by the number of K's scale rows: blocks over all rows of a
matrix, or blocks over each head's K rows and V rows together, one of which may cover the end of K and the beginning of
V. Here the second becomes blocks of fewer rows, so that whoever applies scales knows one rule: row // block rows.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model_server.config import ModelConfig, QuantizationConfig, load_config
from model_server.kernels.fp8 import FP8, dequantize_blocks, quantize_blocks, refine_rows
from model_server.layers.linear import BlockScaledLinear
from model_server.layers.moe import BlockScaledExperts, Experts
from model_server.models.mimo_v2_flash import MiMoV2Flash

_SCALE = "_scale_inv"
_INDEX = "model.safetensors.index.json"
_ROUTER = (".mlp.gate.weight", ".mlp.gate.e_score_correction_bias")
_QUANTIZED = re.compile(r"\.(?:[qkv]_proj|(?:gate|up|down)_proj)\.weight$")
"""Modules the published checkpoint quantises: all attention inputs and all feed-forward blocks."""
_MTP_LAYER = re.compile(r"model\.mtp\.layers\.(\d+)\.")
_CHECKED_AT_ONCE = 2**20
"""Numbers looked at together: what the look takes is small beside a file."""
_MTP_ALIAS = "model.decoder."
"""How the hub's ``ignored_layers`` names the prediction layers, all at once."""


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message names the file or the weight, and what is wrong with it."""


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


def save_checkpoint(
    model: MiMoV2Flash, directory: Path, quantize: bool = True, max_shard_bytes: int = 5 * 1024**3
) -> None:
    """Write ``config.json`` and safetensors files as the hub has them.

    With ``quantize``, attention inputs and feed-forward weights become FP8 blocks, routers f32 and the rest bf16;
    without, every weight keeps its type. Past ``max_shard_bytes`` the weights go to numbered files with an index.

    Raises:
        ValueError: the model was loaded with its FP8 weights kept; it has no others to write.
    """
    if any(parameter.dtype == FP8 for parameter in model.parameters()):
        raise ValueError("a model that keeps FP8 weights is for inference: load it without keep_fp8 to save it")
    directory.mkdir(parents=True, exist_ok=True)
    quantization = (model.config.quantization_config or QuantizationConfig()) if quantize else None
    _write_config(model.config, quantization, directory / "config.json")
    parameters = dict(model.named_parameters())
    groups = list(_shards(_slots(model), parameters, quantization, max_shard_bytes))
    files = [
        "model.safetensors" if len(groups) == 1 else f"model-{number:05}-of-{len(groups):05}.safetensors"
        for number in range(1, len(groups) + 1)
    ]
    weight_map: dict[str, str] = {}
    total = 0
    for file, group in zip(files, groups, strict=True):
        tensors = {name: t for slot in group for name, t in _export(slot, parameters, quantization).items()}
        save_file(tensors, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(t.nbytes for t in tensors.values())
    if len(groups) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (directory / _INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


@dataclass(frozen=True, slots=True)
class HubTensor:
    """One tensor of a checkpoint's files."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def hub_layout(config: ModelConfig, num_mtp_layers: int) -> Iterator[HubTensor]:
    """Every tensor the published checkpoint of this shape has, scales included; nothing is allocated."""
    quantization = config.quantization_config or QuantizationConfig()
    with torch.device("meta"):
        model = MiMoV2Flash(config, num_mtp_layers)
    for slot in _slots(model):
        yield from _stored(slot, quantization)


@dataclass(frozen=True, slots=True)
class _Slot:
    """One tensor of the hub's layout and the part of our parameter it fills."""

    name: str
    shape: tuple[int, ...]
    parameter: str
    expert: int | None = None
    """Index in a stacked parameter; None for one that is not stacked."""
    first_row: int = 0

    def part_of(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return self._part(parameters[self.parameter].detach(), 1)

    def scales_of(self, parameters: Mapping[str, Tensor], block_rows: int) -> Tensor:
        return self._part(parameters[self.parameter + _SCALE].detach(), block_rows)

    def _part(self, whole: Tensor, block_rows: int) -> Tensor:
        if self.expert is None:
            return whole
        first = self.first_row // block_rows
        return whole[self.expert, first : first + _ceil(self.shape[0], block_rows)]


def _slots(model: MiMoV2Flash) -> list[_Slot]:
    return [slot for name, parameter in model.named_parameters() for slot in _slots_of(name, parameter)]


def _slots_of(name: str, parameter: Tensor) -> list[_Slot]:
    shape = tuple(parameter.shape)
    if name.endswith(".experts.down"):
        prefix = name.removesuffix("down")
        return [_Slot(f"{prefix}{e}.down_proj.weight", shape[1:], name, e) for e in range(shape[0])]
    if name.endswith(".experts.gate_up"):
        prefix, width = name.removesuffix("gate_up"), shape[1] // 2
        return [
            _Slot(f"{prefix}{e}.{half}.weight", (width, shape[2]), name, e, first_row)
            for e in range(shape[0])
            for half, first_row in (("gate_proj", 0), ("up_proj", width))
        ]
    return [_Slot(name, shape, name)]


@dataclass(frozen=True, slots=True)
class _Header:
    """What a file says about one of its tensors."""

    path: Path
    shape: tuple[int, ...]
    dtype: str
    """safetensors' name of the type."""


class _Source:
    """The files of a checkpoint: every name once, headers known, tensors on request."""

    def __init__(self, headers: Mapping[str, _Header]) -> None:
        self.headers = headers

    @classmethod
    def open(cls, checkpoint: Path) -> "_Source":
        """Raises CheckpointError: a file is damaged, or the files and the index disagree."""
        headers: dict[str, _Header] = {}
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


def _read_headers(path: Path) -> Iterator[tuple[str, _Header]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                part = file.get_slice(name)
                yield name, _Header(path, tuple(part.get_shape()), part.get_dtype())
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


def _check_index(checkpoint: Path, headers: Mapping[str, _Header]) -> None:
    index = _index(checkpoint)
    found = {name: header.path.name for name, header in headers.items()}
    if index and index != found:
        wrong = sorted(name for name, _ in index.items() ^ found.items())
        raise CheckpointError(f"{checkpoint / _INDEX}: the files disagree about {_some(wrong)}")


def _index(checkpoint: Path) -> dict[str, str]:
    """Weight name to file name; empty without an index."""
    path = checkpoint / _INDEX
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


@dataclass(frozen=True, slots=True)
class _Scales:
    """Which tensors hold the scales of one matrix, and the rows and columns each scale stands for."""

    name: str
    block: tuple[int, int]
    """Of one scale that :meth:`take` returns."""
    by_head: "_ByHead | None" = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,) if self.by_head is None else (self.name, self.by_head.k_name)

    def take(self, scales: Mapping[str, Tensor]) -> Tensor:
        """f32 [ceil(R / block), ceil(C / block)]"""
        if self.by_head is None:
            return scales[self.name]
        return self.by_head.take(scales[self.by_head.k_name], None if self.is_k else scales[self.name], self.block[0])

    @property
    def is_k(self) -> bool:
        return self.by_head is not None and self.by_head.k_name == self.name


@dataclass(frozen=True, slots=True)
class _ByHead:
    """The layout that blocks a head's K rows and V rows together. The scale of a block that has both is K's."""

    k_name: str
    num_heads: int
    k_rows: int
    v_rows: int
    block_rows: int
    """Of the files."""

    def take(self, k_scale: Tensor, v_scale: Tensor | None, finer: int) -> Tensor:
        """Scales of K, or with ``v_scale`` of V, for blocks of ``finer`` rows, which divide every boundary."""
        num_cols = k_scale.shape[1]
        heads = k_scale.view(self.num_heads, -1, num_cols)
        if v_scale is not None:
            heads = torch.cat((heads, v_scale.view(self.num_heads, -1, num_cols)), dim=1)
        rows = heads.repeat_interleave(self.block_rows // finer, dim=1)
        first, num_rows = (0, self.k_rows) if v_scale is None else (self.k_rows, self.v_rows)
        return rows[:, first // finer : (first + num_rows) // finer].reshape(-1, num_cols)


@dataclass(frozen=True, slots=True)
class _Reader:
    """How one slot is filled: with the file's values, with values times scales, or with both as they are."""

    slot: _Slot
    scales: _Scales | None
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


def _checked(checkpoint: Path, keep_fp8: bool) -> tuple[MiMoV2Flash, dict[str, _Reader], _Source]:
    """The model on the meta device, by name in the files how each of its slots is read, and the files."""
    try:
        config = load_config(checkpoint)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint / 'config.json'}: {error}") from error
    source = _Source.open(checkpoint)
    with torch.device("meta"):
        model = MiMoV2Flash(config, _num_mtp_layers(source))
    readers = _readers(model, source)
    if keep_fp8:
        readers = _keep_fp8(model, readers)
    return model, {reader.slot.name: reader for reader in readers}, source


def _num_mtp_layers(source: _Source) -> int:
    numbers = {match[1] for name in source.headers if (match := _MTP_LAYER.match(name))}
    if numbers != {str(number) for number in range(len(numbers))}:
        raise CheckpointError(f"prediction layers are not numbered from 0 on: {_some(sorted(numbers))}")
    return len(numbers)


def _readers(model: MiMoV2Flash, source: _Source) -> list[_Reader]:
    """A reader for every slot, everything checked against the headers.

    Raises:
        CheckpointError: names missing or unexpected, wrong shapes, scales missing.
    """
    slots = _slots(model)
    missing = [slot.name for slot in slots if slot.name not in source.headers]
    if missing:
        raise CheckpointError(f"missing weights: {_some(missing)}")
    for slot in slots:
        header = source.headers[slot.name]
        if header.shape != slot.shape:
            raise CheckpointError(
                f"{header.path}: {slot.name} has shape {list(header.shape)}, the configuration gives {list(slot.shape)}"
            )
    readers = [
        _Reader(slot, _scales(slot, model.config, source) if source.is_fp8(slot.name) else None) for slot in slots
    ]
    known = {slot.name for slot in slots} | {reader.scales.name for reader in readers if reader.scales}
    unexpected = sorted(set(source.headers) - known)
    if unexpected:
        raise CheckpointError(f"unexpected weights: {_some(unexpected)}")
    return readers


def _scales(slot: _Slot, config: ModelConfig, source: _Source) -> _Scales:
    quantization, path = config.quantization_config, source.headers[slot.name].path
    if quantization is None:
        raise CheckpointError(f"{slot.name} is FP8 but config.json has no quantization_config")
    if _is_ignored(slot.name, quantization):
        raise CheckpointError(f"{path}: {slot.name} is FP8 but config.json has it in ignored_layers")
    name, block = slot.name + _SCALE, quantization.weight_block_size
    if name not in source.headers:
        raise CheckpointError(f"{path}: {slot.name} is FP8 but has no {name}")
    if len(slot.shape) != 2:
        raise CheckpointError(f"{path}: {slot.name} is FP8 but no matrix")
    scale = source.headers[name]
    if source.is_fp8(name):
        raise CheckpointError(f"{scale.path}: {name} has type F8_E4M3, expected F32")
    if by_head := _by_head(slot, config, block, source):
        return _Scales(name, (math.gcd(block[0], by_head.k_rows, by_head.v_rows), block[1]), by_head)
    uniform = (_ceil(slot.shape[0], block[0]), _ceil(slot.shape[1], block[1]))
    if scale.shape != uniform:
        raise CheckpointError(f"{scale.path}: {name} has shape {list(scale.shape)}, expected {list(uniform)}")
    return _Scales(name, block)


def _by_head(slot: _Slot, config: ModelConfig, block: tuple[int, int], source: _Source) -> _ByHead | None:
    """Set for K and V whose scales are blocked by head, which the number of K's scale rows shows."""
    match = re.fullmatch(r"(model\.(mtp\.)?layers\.(\d+)\.self_attn\.)[kv]_proj\.weight", slot.name)
    if match is None:
        return None
    heads = config.heads(window=bool(match[2]) or bool(config.hybrid_layer_pattern[int(match[3])]))
    groups, cols = heads.num_kv_heads, _ceil(slot.shape[1], block[1])
    k_blocks = _ceil(heads.qk_dim, block[0])
    v_blocks = _ceil(heads.qk_dim + heads.v_dim, block[0]) - k_blocks
    k_scale, v_scale = (source.headers.get(f"{match[1]}{part}_proj.weight{_SCALE}") for part in "kv")
    found = [None if scale is None else scale.shape for scale in (k_scale, v_scale)]
    if found != [(groups * k_blocks, cols), (groups * v_blocks, cols)]:
        return None
    if k_blocks * groups == _ceil(groups * heads.qk_dim, block[0]):
        return None
    assert k_scale is not None
    return _ByHead(f"{match[1]}k_proj.weight{_SCALE}", groups, heads.qk_dim, heads.v_dim, block[0])


def _keep_fp8(model: MiMoV2Flash, readers: Sequence[_Reader]) -> list[_Reader]:
    """Give the model FP8 modules (on the meta device) where the files have FP8 for the whole of a module."""
    blocks: dict[str, tuple[int, int]] = {}
    by_module = {
        module: list(group)
        for module, group in groupby(readers, lambda reader: reader.slot.parameter.rpartition(".")[0])
    }
    for module, group in by_module.items():
        if all(reader.scales and _QUANTIZED.search(reader.slot.name) for reader in group):
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
            parameter.data = parameter.data.to(torch.float32 if name.endswith((*_ROUTER, _SCALE)) else dtype)


def _shards(
    slots: Sequence[_Slot],
    parameters: Mapping[str, Tensor],
    quantization: QuantizationConfig | None,
    max_shard_bytes: int,
) -> Iterator[list[_Slot]]:
    group: list[_Slot] = []
    size = 0
    for slot in slots:
        num_bytes = _num_bytes(slot, parameters, quantization)
        if group and size + num_bytes > max_shard_bytes:
            yield group
            group, size = [], 0
        group.append(slot)
        size += num_bytes
    yield group


def _stored(slot: _Slot, quantization: QuantizationConfig) -> Iterator[HubTensor]:
    """A slot as a quantised checkpoint's files have it: FP8 values and their scales, f32 for routers, else bf16."""
    if _is_quantized(slot.name, quantization):
        yield HubTensor(slot.name, slot.shape, FP8)
        rows, cols = map(_ceil, slot.shape, quantization.weight_block_size)
        yield HubTensor(slot.name + _SCALE, (rows, cols), torch.float32)
    else:
        yield HubTensor(slot.name, slot.shape, torch.float32 if slot.name.endswith(_ROUTER) else torch.bfloat16)


def _num_bytes(slot: _Slot, parameters: Mapping[str, Tensor], quantization: QuantizationConfig | None) -> int:
    if quantization is None:
        return slot.part_of(parameters).nbytes
    return sum(tensor.num_bytes for tensor in _stored(slot, quantization))


def _export(
    slot: _Slot, parameters: Mapping[str, Tensor], quantization: QuantizationConfig | None
) -> dict[str, Tensor]:
    part = slot.part_of(parameters).cpu()
    if quantization is None:
        return {slot.name: part.clone()}  # safetensors refuses views of one storage
    if _is_quantized(slot.name, quantization):
        values, scale = quantize_blocks(part, quantization.weight_block_size)
        return {slot.name: values.contiguous(), slot.name + _SCALE: scale}
    return {slot.name: part.to(torch.float32 if slot.name.endswith(_ROUTER) else torch.bfloat16, copy=True)}


def _is_quantized(name: str, quantization: QuantizationConfig) -> bool:
    return bool(_QUANTIZED.search(name)) and not _is_ignored(name, quantization)


def _is_ignored(name: str, quantization: QuantizationConfig) -> bool:
    module = name.removesuffix(".weight")
    return not {module, _MTP_LAYER.sub(_MTP_ALIAS, module)}.isdisjoint(quantization.ignored_layers)


def _write_config(config: ModelConfig, quantization: QuantizationConfig | None, path: Path) -> None:
    fields = config.model_dump(mode="json", exclude_none=True, exclude={"quantization_config"})
    # Readers that count the window's keys differently go by these (transformers adds one to the first).
    fields |= {"sliding_window_size": config.sliding_window, "attention_chunk_size": config.sliding_window}
    if quantization is not None:
        fields["quantization_config"] = quantization.model_dump(mode="json") | {
            "ignored_layers": quantization.ignored_layers or _published_exclusions(config)
        }
    path.write_text(json.dumps(fields, indent=2) + "\n", "utf-8")


def _published_exclusions(config: ModelConfig) -> list[str]:
    modules = [f"model.layers.{layer}" for layer in range(config.num_hidden_layers)] + [_MTP_ALIAS.removesuffix(".")]
    return [f"{module}.self_attn.o_proj" for module in modules]


def _ceil(size: int, step: int) -> int:
    return -(-size // step)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
