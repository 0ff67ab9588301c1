"""Routes that a caller has from an earlier answer, for the prompt to take again."""

import base64
from math import prod

import torch
from torch import Tensor

from model_server.config import ModelConfig
from model_server.server.errors import ApiError
from model_server.server.native_schema import NativeRequest

_DATA, _SHAPE = "forced_experts", "forced_experts_shape"


def forced_experts(request: NativeRequest, config: ModelConfig | None) -> Tensor | None:
    """uint8 [S, M, K] for the first tokens of the prompt, or None where the routers choose.

    Raises:
        ApiError: they are no routes of this model, or of more tokens than the prompt has.
    """
    if request.forced_experts is None:
        return None
    if config is None:
        raise ApiError(f"This server takes no routes. Leave {_DATA} out.", code="unsupported_parameter", param=_DATA)
    shape = tuple(request.forced_experts_shape or ())
    layers = (sum(config.moe_layer_freq), config.num_experts_per_tok)
    if len(shape) != 3 or shape[1:] != layers or not 0 < shape[0] <= len(request.input_ids):
        wanted = f"[tokens, {layers[0]}, {layers[1]}], of at most {len(request.input_ids)} tokens"
        raise ApiError(f"Routes for this prompt have the shape {wanted}.", param=_SHAPE)
    data = _decoded(request.forced_experts)
    if len(data) != prod(shape):
        raise ApiError(f"{len(data)} bytes do not have the shape {list(shape)}.", param=_DATA)
    experts = torch.frombuffer(data, dtype=torch.uint8).reshape(shape)
    _check_experts(experts, config.n_routed_experts)
    return experts


def _decoded(text: str) -> bytearray:
    try:
        return bytearray(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise ApiError(f"{_DATA} is not base64: {error}.", param=_DATA) from error


def _check_experts(experts: Tensor, num_experts: int) -> None:
    ordered = experts.sort(-1).values
    if bool((ordered[..., -1] >= num_experts).any()) or bool((ordered[..., 1:] == ordered[..., :-1]).any()):
        raise ApiError(f"A token's experts are different numbers below {num_experts}.", param=_DATA)
