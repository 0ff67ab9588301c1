"""Speed of the embedded engine beside transformers, on one thread and the same random weights.

    python -m benchmarks.engine_decode

Prints tokens per second of CPU time, the best of several rounds taken in turn, and writes
``build/bench/engine_decode.json``. CPU time of one thread, so that a busy machine distorts both sides alike.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import DynamicCache, MiMoV2FlashForCausalLM

from model_server.config import ModelConfig
from model_server.engine.backend import StepBackend
from model_server.engine.torch_backend import TorchBackend
from tests.numerics.pooled import PooledSequences
from tests.numerics.small_models import random_ids, random_model, small_config
from tests.numerics.transformers_peer import transformers_model

_REPORT = Path("build/bench/engine_decode.json")
_CHUNK_TOKENS = 512
_NUM_NEW = 32
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Result:
    """Tokens per second of both sides for one workload."""

    workload: str
    engine: float
    transformers: float

    @property
    def ratio(self) -> float:
        return self.engine / self.transformers


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = random_model(_nano())
    backend, peer = TorchBackend(model, 8192), transformers_model(model, experts="grouped_mm")
    results = [
        _measure(
            f"decode, batch {batch}, {context} tokens before",
            batch * _NUM_NEW,
            _engine_decode(model.config, backend, batch, context),
            _peer_decode(peer, batch, context),
        )
        for batch, context in ((1, 512), (8, 512), (1, 2048))
    ] + [
        _measure(
            f"prefill, {length} tokens",
            length,
            _engine_prefill(model.config, backend, length),
            _peer_prefill(peer, length),
        )
        for length in (512, 2048)
    ]
    _print(results)
    _REPORT.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "results": [asdict(result) | {"ratio": result.ratio} for result in results],
    }
    _REPORT.write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def _nano() -> ModelConfig:
    return small_config(
        vocab_size=4096,
        hidden_size=256,
        num_hidden_layers=6,
        intermediate_size=1024,
        moe_intermediate_size=256,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=48,
        v_head_dim=32,
        swa_num_attention_heads=8,
        swa_num_key_value_heads=4,
        swa_head_dim=48,
        swa_v_head_dim=32,
        sliding_window=128,
        max_position_embeddings=8192,
        hybrid_layer_pattern=(0, 1, 1, 1, 1, 0),
        moe_layer_freq=(0, 1, 1, 1, 1, 1),
    )


def _measure(workload: str, num_tokens: int, ours: Callable[[], float], theirs: Callable[[], float]) -> Result:
    """Each side returns the CPU seconds of one round; rounds alternate so that both meet the same machine."""
    rounds = [(ours(), theirs()) for _ in range(_ROUNDS)]
    fastest = [min(side) for side in zip(*rounds, strict=True)]
    return Result(workload, num_tokens / fastest[0], num_tokens / fastest[1])


def _engine_decode(config: ModelConfig, backend: StepBackend, batch: int, context: int) -> Callable[[], float]:
    def run() -> float:
        prompts = random_ids(config, context, batch=batch).tolist()
        sequences = PooledSequences(config, backend, batch, context + _NUM_NEW)
        rows = [_read(sequences, index, prompt) for index, prompt in enumerate(prompts)]
        tokens = torch.stack(rows).argmax(-1).tolist()
        start = time.process_time()
        for _ in range(_NUM_NEW):
            tokens = sequences.forward([(index, [token]) for index, token in enumerate(tokens)]).argmax(-1).tolist()
        return time.process_time() - start

    return run


def _engine_prefill(config: ModelConfig, backend: StepBackend, length: int) -> Callable[[], float]:
    def run() -> float:
        prompt = random_ids(config, length)[0].tolist()
        sequences = PooledSequences(config, backend, context_length=length)
        start = time.process_time()
        _read(sequences, 0, prompt)
        return time.process_time() - start

    return run


def _read(sequences: PooledSequences, index: int, prompt: list[int]) -> Tensor:
    for first in range(0, len(prompt), _CHUNK_TOKENS):
        logits = sequences.forward([(index, prompt[first : first + _CHUNK_TOKENS])])
    return logits[0]


@torch.inference_mode()
def _peer_read(peer: MiMoV2FlashForCausalLM, ids: Tensor) -> tuple[Tensor, DynamicCache]:
    output = peer(input_ids=ids, use_cache=True, logits_to_keep=1)
    return output.logits[:, -1].argmax(-1), output.past_key_values


def _peer_decode(peer: MiMoV2FlashForCausalLM, batch: int, context: int) -> Callable[[], float]:
    @torch.inference_mode()
    def run() -> float:
        ids = torch.randint(peer.config.vocab_size, (batch, context))
        tokens, cache = _peer_read(peer, ids)
        start = time.process_time()
        for _ in range(_NUM_NEW):
            output = peer(input_ids=tokens[:, None], past_key_values=cache, use_cache=True)
            tokens = output.logits[:, -1].argmax(-1)
        return time.process_time() - start

    return run


def _peer_prefill(peer: MiMoV2FlashForCausalLM, length: int) -> Callable[[], float]:
    def run() -> float:
        ids = torch.randint(peer.config.vocab_size, (1, length))
        start = time.process_time()
        _peer_read(peer, ids)
        return time.process_time() - start

    return run


def _print(results: list[Result]) -> None:
    table = Table("workload", "engine tok/s", "transformers tok/s", "ratio", title="f32, one thread, CPU time")
    for result in results:
        table.add_row(result.workload, f"{result.engine:.0f}", f"{result.transformers:.0f}", f"{result.ratio:.1f}x")
    Console().print(table)


if __name__ == "__main__":
    main()
