"""Writes a model as the hub has it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from model_server.config import ModelConfig, QuantizationConfig
from model_server.kernels.fp8 import FP8, quantize_blocks
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.weights.files import INDEX
from model_server.weights.layout import MTP_ALIAS, ROUTER, SCALE, Slot, all_slots, is_quantized, stored


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
    groups = list(_shards(all_slots(model), parameters, quantization, max_shard_bytes))
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
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _shards(
    slots: Sequence[Slot],
    parameters: Mapping[str, Tensor],
    quantization: QuantizationConfig | None,
    max_shard_bytes: int,
) -> Iterator[list[Slot]]:
    group: list[Slot] = []
    size = 0
    for slot in slots:
        num_bytes = _num_bytes(slot, parameters, quantization)
        if group and size + num_bytes > max_shard_bytes:
            yield group
            group, size = [], 0
        group.append(slot)
        size += num_bytes
    yield group


def _num_bytes(slot: Slot, parameters: Mapping[str, Tensor], quantization: QuantizationConfig | None) -> int:
    if quantization is None:
        return slot.part_of(parameters).nbytes
    return sum(tensor.num_bytes for tensor in stored(slot, quantization))


def _export(slot: Slot, parameters: Mapping[str, Tensor], quantization: QuantizationConfig | None) -> dict[str, Tensor]:
    part = slot.part_of(parameters).cpu()
    if quantization is None:
        return {slot.name: part.clone()}  # safetensors refuses views of one storage
    if is_quantized(slot.name, quantization):
        values, scale = quantize_blocks(part, quantization.weight_block_size)
        return {slot.name: values.contiguous(), slot.name + SCALE: scale}
    return {slot.name: part.to(torch.float32 if slot.name.endswith(ROUTER) else torch.bfloat16, copy=True)}


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
    modules = [f"model.layers.{layer}" for layer in range(config.num_hidden_layers)] + [MTP_ALIAS.removesuffix(".")]
    return [f"{module}.self_attn.o_proj" for module in modules]
