"""Which requests the engine takes at all."""

import torch
from torch import Tensor

from model_server.config import ModelConfig
from model_server.types import (
    CacheTooSmall,
    ContextLengthExceeded,
    EngineError,
    GenerateRequest,
    UnsupportedRequest,
)


def check_request(request: GenerateRequest, config: ModelConfig, context_length: int, max_tokens: int) -> None:
    """Refuse what could never be answered.

    Args:
        max_tokens: whose keys and values fit the memory.

    Raises:
        EngineError: which of its kinds says what is wrong.
    """
    num_prompt, num_asked = len(request.prompt_ids), request.sampling.max_tokens
    wanted = f"the prompt has {num_prompt} tokens and {num_asked} are asked for, together more than"
    if num_prompt + num_asked > context_length:
        raise ContextLengthExceeded(f"{wanted} the context of {context_length}")
    if num_prompt + num_asked > max_tokens:
        raise CacheTooSmall(f"{wanted} the {max_tokens} whose keys and values fit the memory")
    if not request.prompt_ids or num_asked < 1:
        raise EngineError("a request needs at least one prompt token and one token to sample")
    vocab_size = config.vocab_size
    named = [*request.prompt_ids, *(token for token, _ in request.sampling.logit_bias)]
    outside = next((token for token in named if not 0 <= token < vocab_size), None)
    if outside is not None:
        raise EngineError(f"token id {outside} is outside the vocabulary of {vocab_size}")
    if request.forced_experts is not None:
        _check_experts(request.forced_experts, config)
    if request.scored_from is not None and request.session_id is not None:
        raise UnsupportedRequest("what is cached of a session cannot be scored: leave out the session")


def _check_experts(experts: Tensor, config: ModelConfig) -> None:
    """Raises:
    EngineError: these cannot be routes of the model.
    """
    shape = (sum(config.moe_layer_freq), config.num_experts_per_tok)
    if experts.dtype != torch.uint8 or experts.dim() != 3 or experts.shape[1:] != shape:
        raise EngineError(f"forced experts must be bytes [tokens, {shape[0]}, {shape[1]}]")
    ordered = experts.sort(-1).values
    if bool((ordered[..., -1:] >= config.n_routed_experts).any()) or bool((ordered.diff(dim=-1) == 0).any()):
        raise EngineError(f"forced experts of a token must be different numbers below {config.n_routed_experts}")
