"""``config.json`` of a MiMo-V2-Flash checkpoint, with the hub's field names."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Size = Annotated[int, Field(gt=0, le=2**20)]
"""A width or a count. Beyond the limit, which is several times what any model of this family has, the sizes of
products of two of them could not even be computed."""


class QuantizationConfig(BaseModel):
    """Block-scaled FP8 weights, as the hub's files carry them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    quant_method: Literal["fp8"] = "fp8"
    fmt: Literal["e4m3"] = "e4m3"
    activation_scheme: Literal["dynamic"] = "dynamic"
    weight_block_size: tuple[int, int] = (128, 128)
    ignored_layers: tuple[str, ...] = ()
    """Modules whose weights stay unquantised; empty means the published exclusions (o_proj, eh_proj, embeddings)."""


class ModelConfig(BaseModel):
    """Shape of the model. Fields are the hub's; derived values are properties; impossible shapes are refused."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    architectures: tuple[str, ...] = ("MiMoV2FlashForCausalLM",)
    model_type: Literal["mimo_v2_flash"] = "mimo_v2_flash"
    vocab_size: Size
    hidden_size: Size
    num_hidden_layers: Size
    intermediate_size: Size
    moe_intermediate_size: Size
    mtp_intermediate_size: Size | None = None
    """Our extension for small checkpoints; None takes ``intermediate_size``, as the published model does."""
    num_attention_heads: Size
    num_key_value_heads: Size
    head_dim: Size
    v_head_dim: Size
    swa_num_attention_heads: Size
    swa_num_key_value_heads: Size
    swa_head_dim: Size
    swa_v_head_dim: Size
    partial_rotary_factor: float = Field(gt=0, le=1)
    rope_theta: float = Field(gt=0)
    swa_rope_theta: float = Field(gt=0)
    rope_scaling: dict[str, Any] | None = None
    """Positions are never scaled in this model: None, or the type "default", which says the same."""
    max_position_embeddings: int = Field(gt=0, le=2**31)
    sliding_window: int = Field(gt=0, le=2**31)
    hybrid_layer_pattern: tuple[Literal[0, 1], ...]
    """Per layer: 0 attends to everything before it, 1 to a window."""
    moe_layer_freq: tuple[Literal[0, 1], ...]
    """Per layer: 0 has a dense feed-forward block, 1 has experts."""
    n_routed_experts: int = Field(gt=0, le=256)
    """At most 256: the experts of a token are kept as bytes."""
    n_shared_experts: None = None
    num_experts_per_tok: Size
    norm_topk_prob: bool = True
    scoring_func: Literal["sigmoid"] = "sigmoid"
    topk_method: Literal["noaux_tc"] = "noaux_tc"
    n_group: Literal[1] = 1
    topk_group: Literal[1] = 1
    routed_scaling_factor: float | None = None
    hidden_act: Literal["silu"] = "silu"
    layernorm_epsilon: float = Field(1e-5, gt=0)
    attention_bias: Literal[False] = False
    attention_value_scale: float = 1.0
    add_swa_attention_sink_bias: bool = True
    add_full_attention_sink_bias: bool = False
    tie_word_embeddings: bool = False
    torch_dtype: str = "bfloat16"
    quantization_config: QuantizationConfig | None = None

    @field_validator("rope_scaling")
    @classmethod
    def _no_scaling(cls, scaling: dict[str, Any] | None) -> None:
        if scaling is not None and scaling.get("rope_type", scaling.get("type")) != "default":
            raise ValueError(f"positions cannot be scaled ({scaling})")

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        layers = self.num_hidden_layers
        for name in ("hybrid_layer_pattern", "moe_layer_freq"):
            if len(getattr(self, name)) != layers:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {layers} layers")
        if self.num_experts_per_tok > self.n_routed_experts:
            raise ValueError(
                f"num_experts_per_tok {self.num_experts_per_tok} > n_routed_experts {self.n_routed_experts}"
            )
        for window in (False, True):
            heads = self.heads(window)
            if heads.num_heads % heads.num_kv_heads:
                raise ValueError(f"{heads.num_heads} heads cannot share {heads.num_kv_heads} key-value heads")
            if heads.rotary_dim % 2 or heads.rotary_dim == 0:
                raise ValueError(f"head_dim {heads.qk_dim} x partial_rotary_factor gives {heads.rotary_dim} dimensions")
        return self

    @property
    def window_keys(self) -> int:
        """Keys a window layer sees, the query's own included: ``sliding_window`` before it and itself.

        SGLang, which served the released policy, and transformers from 5.20 on count this way; other engines see
        one key less.
        """
        return self.sliding_window + 1

    def heads(self, window: bool) -> "Heads":
        """Attention widths of window or of global layers."""
        prefix = "swa_" if window else ""
        qk_dim: int = getattr(self, f"{prefix}head_dim")
        return Heads(
            num_heads=getattr(self, f"{prefix}num_attention_heads"),
            num_kv_heads=getattr(self, f"{prefix}num_key_value_heads"),
            qk_dim=qk_dim,
            v_dim=getattr(self, f"{prefix}v_head_dim"),
            rotary_dim=int(qk_dim * self.partial_rotary_factor),
            theta=self.swa_rope_theta if window else self.rope_theta,
            sink=self.add_swa_attention_sink_bias if window else self.add_full_attention_sink_bias,
        )


class Heads(BaseModel):
    """Widths of one kind of attention layer."""

    model_config = ConfigDict(frozen=True)

    num_heads: int
    num_kv_heads: int
    qk_dim: int
    v_dim: int
    rotary_dim: int
    theta: float
    sink: bool


def load_config(path: Path | None = None) -> ModelConfig:
    """The configuration in a file, or in a checkpoint's folder; None is that of the published model.

    Raises:
        OSError: it cannot be read.
        pydantic.ValidationError: it is no JSON, a field is missing, or names something this model cannot be.
    """
    if path is None:
        text = files("model_server.published").joinpath("MiMo-V2-Flash.json").read_bytes()
    else:
        text = (path / "config.json" if path.is_dir() else path).read_bytes()
    return ModelConfig.model_validate_json(text)
