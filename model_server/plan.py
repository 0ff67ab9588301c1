"""What a machine with several GPUs holds of a model: weights, keys and values, sequences.

``python -m model_server plan --gpus 8 --memory 141``. Arithmetic over the checkpoint's layout; nothing is measured and
nothing allocated. Attention is split over ``tp`` GPUs and repeated over ``dp`` groups of them; experts, dense
feed-forward blocks and prediction layers' feed-forward blocks are split over all GPUs.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from model_server.config import ModelConfig, load_config
from model_server.weights.layout import HubTensor, hub_layout

NUM_MTP_LAYERS = 3
"""Of the published model; ``config.json`` does not say it."""
_GB = 10**9
_CACHE_BYTES = 2
"""Keys and values are bf16."""
_CONTEXTS = (8_192, 32_768, 131_072, 262_144)
_WORKING_SLOTS = 2
"""Windows a live request needs in the pool of window layers: its own, and room for the chunk that is being read."""
_ATTENTION = re.compile(r"\.self_attn\.([qkvo])_proj\.weight")
_VOCABULARY = re.compile(r"^(?:model\.embed_tokens|lm_head)\.")
_FEED_FORWARD = re.compile(r"\.(?:gate|up|down)_proj\.weight")


@dataclass(frozen=True, slots=True)
class Machine:
    """GPUs of one kind. ``memory`` is GB (10^9 bytes) each; ``share`` of it is for weights, keys and values."""

    gpus: int
    memory: float
    share: float = 0.75


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to split the model; amounts are per GPU, sequences per machine."""

    tp: int
    dp: int
    weights_gb: float
    room_gb: float
    """For keys and values; negative where the weights do not fit."""
    bytes_per_token: int
    """Of the global layers, for each token of a context."""
    bytes_per_window_slot: int
    """Of the window layers, for each of their slots."""
    window_ratio: float
    """Window slots per token of context (SGLang's ``--swa-full-tokens-ratio``)."""
    tokens: int
    """Context tokens that fit, over all groups."""
    sequences: dict[int, int]
    """How many live sequences fit, by the length of each."""


def plan(config: ModelConfig, machine: Machine, window_ratio: float) -> Iterator[Layout]:
    """Every way to split attention that the number of heads allows."""
    tensors = list(hub_layout(config, NUM_MTP_LAYERS))
    for tp in range(1, machine.gpus + 1):
        if machine.gpus % tp == 0 and splits(config, tp):
            yield _layout(config, machine, window_ratio, tensors, tp)


def _layout(config: ModelConfig, machine: Machine, ratio: float, tensors: list[HubTensor], tp: int) -> Layout:
    dp = machine.gpus // tp
    weights = sum(tensor.num_bytes / _ways(tensor, config, tp, machine.gpus) for tensor in tensors)
    room = machine.memory * machine.share * _GB - weights
    token, slot = (_cache_bytes(config, tp, window) for window in (False, True))
    per_group = max(0, int(room / (token + ratio * slot)))
    slots_per_sequence = _WORKING_SLOTS * config.sliding_window
    by_slots = int(per_group * ratio) // slots_per_sequence
    return Layout(
        tp=tp,
        dp=dp,
        weights_gb=weights / _GB,
        room_gb=room / _GB,
        bytes_per_token=token,
        bytes_per_window_slot=slot,
        window_ratio=ratio,
        tokens=per_group * dp,
        sequences={
            length: dp * min(per_group // length, by_slots)
            for length in _CONTEXTS
            if length <= config.max_position_embeddings
        },
    )


def splits(config: ModelConfig, tp: int) -> bool:
    """Whether heads can be dealt out evenly; few key-value heads are repeated."""
    kinds = [config.heads(window) for window in (False, True)]
    return all(
        heads.num_heads % tp == 0 and (heads.num_kv_heads % tp == 0 or tp % heads.num_kv_heads == 0) for heads in kinds
    )


def _ways(tensor: HubTensor, config: ModelConfig, tp: int, gpus: int) -> int:
    """Over how many GPUs a tensor is split; 1 is a copy on each."""
    if attention := _ATTENTION.search(tensor.name):
        if attention[1] in "qo":
            return tp
        layer = re.match(r"model\.layers\.(\d+)\.", tensor.name)
        window = bool(config.hybrid_layer_pattern[int(layer[1])]) if layer else True
        return min(tp, config.heads(window).num_kv_heads)
    if _FEED_FORWARD.search(tensor.name):
        return gpus
    return tp if _VOCABULARY.match(tensor.name) else 1


def _cache_bytes(config: ModelConfig, tp: int, window: bool) -> int:
    """Bytes per GPU that one token takes in all layers of a kind."""
    heads = config.heads(window)
    num_layers = sum(bool(kind) == window for kind in config.hybrid_layer_pattern)
    kept_heads = max(1, heads.num_kv_heads // tp)
    return num_layers * kept_heads * (heads.qk_dim + heads.v_dim) * _CACHE_BYTES


def main(arguments: Sequence[str]) -> int:
    """Print the table; exit code 2 is a mistake the caller can correct."""
    options = _parser().parse_args(arguments)
    try:
        config = load_config(options.config)
    except (OSError, ValidationError) as error:
        print(f"model_server plan: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return 2
    machine = Machine(options.gpus, options.memory, options.share)
    layouts = list(plan(config, machine, options.window_ratio))
    if not layouts:
        print(f"model_server plan: the heads cannot be split over {options.gpus} GPUs", file=sys.stderr)  # noqa: T201
        return 2
    if options.output == "json":
        sys.stdout.write(json.dumps([asdict(layout) for layout in layouts], indent=2) + "\n")
    else:
        Console().print(_table(machine, layouts))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model_server plan", description="What fits on a machine's GPUs.")
    parser.add_argument("--gpus", type=_count, required=True)
    parser.add_argument("--memory", type=_gigabytes, required=True, help="of one GPU, GB")
    parser.add_argument("--share", type=_share, default=0.75, help="of the memory, for weights, keys and values")
    parser.add_argument(
        "--window-ratio", type=_share, default=0.1, help="slots of window layers per token of context (default 0.1)"
    )
    parser.add_argument("--config", type=Path, help="config.json or its folder; default: MiMo-V2-Flash")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if not 0 < value <= 1024:
        raise argparse.ArgumentTypeError(f"{value} is not between 1 and 1024")
    return value


def _gigabytes(text: str) -> float:
    value = float(text)
    if not 0 < value < 10_000:
        raise argparse.ArgumentTypeError(f"{text} is not a GPU's memory")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def _table(machine: Machine, layouts: list[Layout]) -> Table:
    title = f"{machine.gpus} GPUs of {machine.memory:g} GB, {machine.share:.0%} of it used"
    table = Table(title=title, caption="GB per GPU; tokens and live sequences of the whole machine")
    lengths = list(layouts[0].sequences)
    for name in ("TP x DP", "weights", "for cache", "tokens", *(f"at {length // 1024}K" for length in lengths)):
        table.add_column(name, justify="right")
    for layout in layouts:
        cells = [f"{layout.tp} x {layout.dp}", f"{layout.weights_gb:.1f} GB", f"{layout.room_gb:.1f} GB"]
        fits = [f"{layout.tokens / 1e6:.2f} M", *(str(layout.sequences[length]) for length in lengths)]
        table.add_row(*cells, *(fits if layout.room_gb > 0 else ["too big"]))
    return table
