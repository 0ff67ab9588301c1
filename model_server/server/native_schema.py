"""What ``POST /generate`` accepts, checked once: token ids, under SGLang's names."""

from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints

from model_server.server.body import JsonObject, checked, present, without_neutral
from model_server.server.errors import ApiError
from model_server.server.placement_fields import PlacementFields
from model_server.server.sampling_fields import MAX_COUNT, SamplingFields, TokenId

_IGNORED = ("log_metrics", "model", "no_logs", "routing_key")
"""Fields that change nothing about an answer. Gateways add ``model``, as they add what asks for nothing below."""

_IGNORED_SAMPLING = ("skip_special_tokens", "spaces_between_special_tokens")
"""How text shows markers: it shows all but the one that ended it. Whoever needs another text has the ids."""

_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "custom_logit_processor": (),
    "image_data": (),
    "input_embeds": (),
    "lora_path": (),
    "return_bytes": (False,),
    "return_entropy": (False,),
    "return_hidden_states": (False,),
    "session_params": (),
    "text": (),
    "token_ids_logprob": (),
}

_UNSUPPORTED_SAMPLING: dict[str, tuple[Any, ...]] = {
    "custom_params": (),
    "ebnf": (),
    "json_schema": (),
    "min_new_tokens": (0,),
    "n": (1,),
    "regex": (),
    "stop_regex": (),
    "stream_interval": (1,),
    "structural_tag": (),
}


class NativeSampling(SamplingFields):
    """``sampling_params``."""

    path: ClassVar[str] = "sampling_params."
    prompt_field: ClassVar[str] = "input_ids"
    limit_field: ClassVar[str] = "sampling_params.max_new_tokens"

    seed: int | None = Field(None, ge=0, lt=2**63, alias="sampling_seed")
    max_tokens: int | None = Field(128, ge=0, alias="max_new_tokens")
    """SGLang's default; null leaves what the context holds. 0 is for those who want the prompt's logarithms only."""
    stop_token_ids: list[TokenId] = Field([], max_length=64)
    """Tokens that end the answer besides those of the tokenizer."""
    ignore_eos: bool = False
    """Only ``stop_token_ids``, ``stop`` and the limit end the answer."""
    no_stop_trim: bool = False
    """Leave what ended the answer in its text."""


class NativeRequest(PlacementFields):
    """A checked request. Fields that are null are treated as absent."""

    input_ids: list[TokenId] = Field(min_length=1)
    sampling_params: NativeSampling = NativeSampling()
    rid: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    """The caller's name for the request, repeated as ``meta_info.id``."""
    stream: bool = False
    return_logprob: bool = False
    top_logprobs_num: int = Field(0, ge=0, le=20)
    logprob_start_len: int = Field(-1, ge=-1, le=MAX_COUNT)
    """Report those of the prompt's tokens after this position too; -1 reports none."""
    return_text_in_logprobs: bool = False
    return_routed_experts: bool = False
    routed_experts_start_len: int = Field(0, ge=0, le=MAX_COUNT)
    forced_experts: str | None = None
    """Our extension: ``routed_experts`` of an earlier answer, which the first tokens of the prompt use again."""
    forced_experts_shape: list[TokenId] | None = None

    @property
    def num_logprobs(self) -> int | None:
        """Likeliest tokens to report beside each sampled one; None reports none at all."""
        return self.top_logprobs_num if self.return_logprob else None

    @property
    def scored_from(self) -> int | None:
        """Position after which the prompt's tokens are scored; None scores none."""
        return None if self.logprob_start_len < 0 else self.logprob_start_len

    @property
    def only_scores(self) -> bool:
        """Nothing is to be generated. A token is all the same, and nobody is told."""
        return self.sampling_params.max_tokens == 0

    @property
    def experts_from(self) -> int | None:
        """Position from which on experts are reported; None reports none."""
        return self.routed_experts_start_len if self.return_routed_experts else None


def parse_native(fields: JsonObject) -> NativeRequest:
    """Check a request.

    Raises:
        ApiError: what is wrong, where, and what to do.
    """
    fields = present(fields, _IGNORED)
    sampling = fields.get("sampling_params")
    if isinstance(sampling, dict):
        fields["sampling_params"] = without_neutral(
            _present_sampling(sampling), _UNSUPPORTED_SAMPLING, "sampling_params."
        )
    request = checked(NativeRequest, without_neutral(fields, _UNSUPPORTED))
    if request.top_logprobs_num and not request.return_logprob:
        message = "top_logprobs_num needs return_logprob: true. Set it, or leave top_logprobs_num out."
        raise ApiError(message, param="top_logprobs_num")
    if request.scored_from is not None and not request.return_logprob:
        message = "logprob_start_len needs return_logprob: true. Set it, or leave logprob_start_len out."
        raise ApiError(message, param="logprob_start_len")
    if request.only_scores and request.scored_from is None:
        message = "max_new_tokens 0 leaves nothing to answer without logprob_start_len. Set one of them."
        raise ApiError(message, param="sampling_params.max_new_tokens")
    if request.forced_experts is not None and request.session_id is not None:
        message = "A session keeps its own routes. Leave out session_id or forced_experts."
        raise ApiError(message, param="forced_experts")
    return request


def _present_sampling(fields: JsonObject) -> JsonObject:
    unlimited = {"max_new_tokens": None} if fields.get("max_new_tokens", 0) is None else {}
    return present(fields, _IGNORED_SAMPLING) | unlimited
