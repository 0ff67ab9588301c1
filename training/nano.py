"""The shape of mimo-v2-nano and its training schedule."""

from dataclasses import dataclass, field

from model_server.config import ModelConfig, QuantizationConfig
from training.episodes import EpisodeMix
from training.optimizer import OptimizerSettings
from training.samples import DataMix

NUM_MTP_LAYERS = 3


def nano_config(vocab_size: int) -> ModelConfig:
    """Every part of the real architecture, small: 10 M parameters, 4 M of them active per token."""
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        num_hidden_layers=6,
        intermediate_size=704,
        moe_intermediate_size=256,
        mtp_intermediate_size=256,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=48,
        v_head_dim=32,
        swa_num_attention_heads=8,
        swa_num_key_value_heads=4,
        swa_head_dim=48,
        swa_v_head_dim=32,
        partial_rotary_factor=0.334,
        rope_theta=500_000.0,
        swa_rope_theta=10_000.0,
        max_position_embeddings=16_384,
        sliding_window=64,
        hybrid_layer_pattern=(0, 1, 1, 0, 1, 0),
        moe_layer_freq=(0, 1, 1, 1, 1, 1),
        n_routed_experts=8,
        num_experts_per_tok=2,
        attention_value_scale=0.707,
        tie_word_embeddings=True,
        quantization_config=QuantizationConfig(),
    )


@dataclass(frozen=True, slots=True)
class Schedule:
    """Stages by share of the token budget. Rates rise over ``warmup_steps`` and fall linearly from ``decay_from``."""

    tokens: int = 24_000_000
    tokens_per_batch: int = 8192
    pool_size: int = 192
    vocab_size: int = 1536
    tokenizer_episodes: int = 6000
    warmup_steps: int = 100
    decay_from: float = 0.02
    curriculum_until: float = 0.06
    peak: float = 1.0
    """Rates are multiplied by this; less than 1 to go on from a trained model."""
    seed: int = 1
    round_from: float = 0.85
    """From here on the model computes with weights rounded to FP8 blocks, as it will be shipped."""
    router_bias_rate: float = 2e-3
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    def factor(self, step: int, progress: float) -> float:
        """What the peak rates are multiplied by."""
        rising = min(1.0, (step + 1) / self.warmup_steps)
        falling = 1.0 if progress < self.decay_from else (1.0 - progress) / (1.0 - self.decay_from)
        return self.peak * max(rising * falling, 0.0)

    def mix(self, progress: float) -> DataMix:
        """First what code looks like and how a conversation runs, then repairs, most of them in drills. The code that
        tools show is learned too: who predicts correct code well sees where a line departs from its docstring."""
        if progress < self.curriculum_until:
            return DataMix(EpisodeMix(), num_bugs=(0.4, 0.4, 0.2), clean=0.4, observation_weight=1.0)
        return DataMix(
            EpisodeMix(),
            num_bugs=(0.95, 0.05),
            clean=0.0,
            observation_weight=0.3,
            drills=0.6 if progress < 0.75 else 0.2,
            own_mistakes=0.2,
        )
