"""Checkpoints in the hub's layout, to our modules and back.

safetensors only: a checkpoint is data, never code. Quantised weights are e4m3 values with one f32 scale per block
(``<name>_scale_inv``); the weight is value times scale. Experts have a name each in the files and are stacked here.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model_server.config import ModelConfig, QuantizationConfig, load_config
from model_server.models.mimo_v2_flash import MiMoV2Flash

_FP8 = torch.float8_e4m3fn
_FP8_MAX = 448.0
_SCALE = "_scale_inv"
_INDEX = "model.safetensors.index.json"
_ROUTER = (".mlp.gate.weight", ".mlp.gate.e_score_correction_bias")
_QUANTIZED = re.compile(r"\.(?:[qkv]_proj|(?:gate|up|down)_proj)\.weight$")
"""Modules the published checkpoint quantises: all attention inputs and all feed-forward blocks."""
_MTP_LAYER = re.compile(r"model\.mtp\.layers\.(\d+)\.")
_MTP_ALIAS = "model.decoder."
"""How the hub's ``ignored_layers`` names the prediction layers, all at once."""


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message names the file or the weight, and what is wrong with it."""


def load_model(checkpoint: Path, dtype: torch.dtype) -> MiMoV2Flash:
    """Build the model a folder describes, weights in ``dtype`` (routers always in f32), ready for inference.

    The number of prediction layers follows from the names. Names, shapes and scales are checked before memory is
    taken; then memory stays below the weights and one file.

    Raises:
        CheckpointError: anything about the folder is missing, damaged, unexpected or of the wrong shape.
    """
    try:
        config = load_config(checkpoint)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint / 'config.json'}: {error}") from error
    with ExitStack() as stack:
        source = _Source.open(checkpoint, stack)
        num_mtp_layers = 1 + max((int(m[1]) for name in source.files if (m := _MTP_LAYER.match(name))), default=-1)
        with torch.device("meta"):
            model = MiMoV2Flash(config, num_mtp_layers)
        readers = _readers(model, source)
        _set_dtype(model, dtype)
        model.to_empty(device="cpu")
        if config.tie_word_embeddings:  # to_empty gives each name its own memory
            model.lm_head.weight = model.model.embed_tokens.weight
        parameters = dict(model.named_parameters())
        for reader in readers:
            reader.slot.part_of(parameters).copy_(reader.read(source))
    return model.eval()


def save_checkpoint(
    model: MiMoV2Flash, directory: Path, quantize: bool = True, max_shard_bytes: int = 5 * 1024**3
) -> None:
    """Write ``config.json`` and safetensors files as the hub has them.

    With ``quantize``, attention inputs and feed-forward weights become FP8 blocks, routers f32 and the rest bf16;
    without, every weight keeps its type. Past ``max_shard_bytes`` the weights go to numbered files with an index.
    """
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


def quantize_blocks(weight: Tensor, block: tuple[int, int] = (128, 128)) -> tuple[Tensor, Tensor]:
    """weight [..., R, C] -> e4m3 values [..., R, C] and f32 scales [..., ceil(R / block), ceil(C / block)].

    The largest magnitude of a block becomes 448, the largest e4m3 value. A block of zeros gets scale 1.
    """
    num_rows, num_cols = weight.shape[-2:]
    padded = F.pad(weight.detach().float(), (0, -num_cols % block[1], 0, -num_rows % block[0]))
    by_col = torch.unflatten(padded, -1, (-1, block[1]))
    blocks = torch.unflatten(by_col, -3, (-1, block[0]))  # [..., r, block, c, block]
    largest = blocks.abs().amax((-3, -1))
    scale = torch.where(largest > 0, largest / _FP8_MAX, 1.0)
    values = (blocks / scale[..., :, None, :, None]).clamp(-_FP8_MAX, _FP8_MAX)
    flat = values.flatten(-4, -3).flatten(-2)[..., :num_rows, :num_cols]
    return flat.to(_FP8), scale


def dequantize_blocks(values: Tensor, scale: Tensor, block: tuple[int, int] = (128, 128)) -> Tensor:
    """e4m3 values [..., R, C] and their block scales -> f32 weight."""
    num_rows, num_cols = values.shape[-2:]
    by_row = scale.float().repeat_interleave(block[0], dim=-2)[..., :num_rows, :]
    return values.float() * by_row.repeat_interleave(block[1], dim=-1)[..., :num_cols]


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
        whole = parameters[self.parameter].detach()
        if self.expert is None:
            return whole
        return whole[self.expert, self.first_row : self.first_row + self.shape[0]]


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


class _Source:
    """The open files of a checkpoint: every name once, headers read, tensors on request."""

    def __init__(self, files: dict[str, Path], handles: dict[Path, Any]) -> None:
        self.files = files
        self._handles = handles

    @classmethod
    def open(cls, checkpoint: Path, stack: ExitStack) -> "_Source":
        files: dict[str, Path] = {}
        handles: dict[Path, Any] = {}
        for path in _weight_files(checkpoint):
            try:
                handles[path] = stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path}: {error}") from error
            for name in handles[path].keys():  # noqa: SIM118 (not a mapping)
                if name in files:
                    raise CheckpointError(f"{path}: {name} is also in {files[name].name}")
                files[name] = path
        _check_index(checkpoint, files)
        return cls(files, handles)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._handles[self.files[name]].get_slice(name).get_shape())

    def is_fp8(self, name: str) -> bool:
        """Raises CheckpointError for a type that is no weight's."""
        dtype = self._handles[self.files[name]].get_slice(name).get_dtype()
        if dtype not in ("F8_E4M3", "BF16", "F16", "F32"):
            raise CheckpointError(f"{self.files[name]}: {name} has type {dtype}, expected F8_E4M3, BF16, F16 or F32")
        return bool(dtype == "F8_E4M3")

    def tensor(self, name: str) -> Tensor:
        try:
            result: Tensor = self._handles[self.files[name]].get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{self.files[name]}: {name}: {error}") from error
        return result


def _weight_files(checkpoint: Path) -> list[Path]:
    files = sorted({checkpoint / name for name in _index(checkpoint).values()} or checkpoint.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{checkpoint}: no *.safetensors file")
    return files


def _check_index(checkpoint: Path, files: Mapping[str, Path]) -> None:
    index = _index(checkpoint)
    found = {name: path.name for name, path in files.items()}
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
class _Reader:
    """How one slot is read: plain, or values times scales."""

    slot: _Slot
    scales: "_Scales | None"

    def read(self, source: _Source) -> Tensor:
        values = source.tensor(self.slot.name)
        return values if self.scales is None else self.scales.apply(values, source)


@dataclass(frozen=True, slots=True)
class _Scales:
    """Scales of one weight. ``shared`` is set for V in the per-head layout, where a head's first V rows belong to
    the block of its last K rows, whose scale is stored with K."""

    name: str
    block: tuple[int, int]
    head_rows: tuple[int, int] | None = None
    """K and V rows of a head, in the per-head layout of attention weights."""
    shared: str | None = None

    def apply(self, values: Tensor, source: _Source) -> Tensor:
        scale = source.tensor(self.name).float()
        if self.head_rows is None:
            return dequantize_blocks(values, scale, self.block)
        k_rows, v_rows = self.head_rows
        num_heads = len(values) // (k_rows if self.shared is None else v_rows)
        k_scale = scale if self.shared is None else source.tensor(self.shared).float()
        heads = _by_head(k_scale, num_heads)
        if self.shared is not None:
            heads = torch.cat((heads, _by_head(scale, num_heads)), dim=1)
        by_row = heads.repeat_interleave(self.block[0], dim=1)
        by_row = by_row[:, :k_rows] if self.shared is None else by_row[:, k_rows : k_rows + v_rows]
        by_col = by_row.flatten(0, 1).repeat_interleave(self.block[1], dim=1)
        return values.float() * by_col[:, : values.shape[1]]


def _by_head(scale: Tensor, num_heads: int) -> Tensor:
    return scale.view(num_heads, len(scale) // num_heads, scale.shape[1])


def _readers(model: MiMoV2Flash, source: _Source) -> list[_Reader]:
    """A reader for every slot, everything checked against the headers.

    Raises:
        CheckpointError: names missing or unexpected, wrong shapes, scales missing.
    """
    slots = _slots(model)
    missing = [slot.name for slot in slots if slot.name not in source.files]
    if missing:
        raise CheckpointError(f"missing weights: {_some(missing)}")
    for slot in slots:
        if source.shape(slot.name) != slot.shape:
            raise CheckpointError(
                f"{source.files[slot.name]}: {slot.name} has shape {list(source.shape(slot.name))},"
                f" the configuration gives {list(slot.shape)}"
            )
    readers = [
        _Reader(slot, _scales(slot, model.config, source) if source.is_fp8(slot.name) else None) for slot in slots
    ]
    known = {slot.name for slot in slots} | {reader.scales.name for reader in readers if reader.scales}
    unexpected = sorted(set(source.files) - known)
    if unexpected:
        raise CheckpointError(f"unexpected weights: {_some(unexpected)}")
    return readers


def _scales(slot: _Slot, config: ModelConfig, source: _Source) -> _Scales:
    quantization = config.quantization_config
    if quantization is None:
        raise CheckpointError(f"{slot.name} is FP8 but config.json has no quantization_config")
    name, block = slot.name + _SCALE, quantization.weight_block_size
    if name not in source.files:
        raise CheckpointError(f"{source.files[slot.name]}: {slot.name} is FP8 but has no {name}")
    if len(slot.shape) != 2:
        raise CheckpointError(f"{source.files[slot.name]}: {slot.name} is FP8 but no matrix")
    if source.is_fp8(name):
        raise CheckpointError(f"{source.files[name]}: {name} has type F8_E4M3, expected F32")
    cols = _ceil(slot.shape[1], block[1])
    found, uniform = source.shape(name), (_ceil(slot.shape[0], block[0]), cols)
    module, _, projection = slot.name.removesuffix(".weight").rpartition(".")
    if projection in ("k_proj", "v_proj"):
        per_head = _per_head_scales(name, module, config, block, cols, source)
        if per_head is not None:
            return per_head
    if found != uniform:
        raise CheckpointError(f"{source.files[name]}: {name} has shape {list(found)}, expected {list(uniform)}")
    return _Scales(name, block)


def _per_head_scales(
    name: str, module: str, config: ModelConfig, block: tuple[int, int], cols: int, source: _Source
) -> _Scales | None:
    """The layout that blocks each head's K rows and V rows together, if K's scale has that many rows; else None."""
    layer = re.match(r"model\.layers\.(\d+)\.", module)
    heads = config.heads(window=bool(config.hybrid_layer_pattern[int(layer[1])]) if layer else True)
    k_name = f"{module}.k_proj.weight{_SCALE}"
    k_blocks = _ceil(heads.qk_dim, block[0])
    v_blocks = _ceil(heads.qk_dim + heads.v_dim, block[0]) - k_blocks
    uniform = _ceil(heads.num_kv_heads * heads.qk_dim, block[0])
    if k_name not in source.files or source.shape(k_name) != (heads.num_kv_heads * k_blocks, cols):
        return None
    if source.shape(k_name)[0] == uniform:
        return None
    is_k = name == k_name
    if not is_k and source.shape(name) != (heads.num_kv_heads * v_blocks, cols):
        return None
    return _Scales(name, block, (heads.qk_dim, heads.v_dim), None if is_k else k_name)


def _set_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        parameter.data = parameter.data.to(torch.float32 if name.endswith(_ROUTER) else dtype)


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
        yield HubTensor(slot.name, slot.shape, _FP8)
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
    module = name.removesuffix(".weight")
    alias = _MTP_LAYER.sub(_MTP_ALIAS, module)
    return bool(_QUANTIZED.search(name)) and not {module, alias} & set(quantization.ignored_layers)


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
