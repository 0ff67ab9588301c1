"""What SGLang is asked, and what its events mean, without a connection."""

import base64
from typing import Any

import pytest
import torch

from model_server.sglang.native import TokenReader, Vocabulary, refusal, request_body
from model_server.sglang.segments import Segments
from model_server.types import (
    ContextLengthExceeded,
    EngineError,
    EngineUnavailable,
    GenerateRequest,
    Overloaded,
    SamplingParams,
    TokenDeadline,
    TokenEvent,
    TurnForm,
    UnfollowableGrammar,
    UnsupportedRequest,
)
from tests.numerics.small_models import small_config

CONFIG = small_config(num_hidden_layers=3, hybrid_layer_pattern=(0, 1, 1), moe_layer_freq=(0, 1, 1))
END, END_THINK = 90, 91
VOCABULARY = Vocabulary(frozenset({END}), END_THINK)
PLAIN = GenerateRequest("r", (1, 2, 3))


class FormOnly:
    """A grammar for an engine that enforces forms itself."""

    def __init__(self, form: TurnForm | None) -> None:
        self.form = form

    def start(self) -> Any:
        raise NotImplementedError


def body(num_groups: int = 1, **sampling: Any) -> dict[str, Any]:
    return request_body(GenerateRequest("r", (1, 2, 3), SamplingParams(**sampling)), "name", VOCABULARY, num_groups)


def test_stop_tokens_hold_only_if_the_end_of_the_turn_does() -> None:
    asked = body(stop_ids=frozenset({END, 7}))["sampling_params"]
    assert (asked["stop_token_ids"], asked["ignore_eos"]) == ([7, END], False)
    assert body()["sampling_params"]["ignore_eos"] is True
    with pytest.raises(UnsupportedRequest, match="past the end of a turn"):
        body(stop_ids=frozenset({7}))


def test_thinking_has_a_budget_and_other_tokens_have_none() -> None:
    asked = body(deadline=TokenDeadline(END_THINK, 9))
    assert (asked["max_thinking_tokens"], asked["require_reasoning"]) == (9, True)
    with pytest.raises(UnsupportedRequest, match="thinking only"):
        body(deadline=TokenDeadline(5, 9))


def test_a_form_is_enforced_there_and_one_that_cannot_be_said_is_refused() -> None:
    schema = {"type": "object"}
    asked = body(grammar=FormOnly(TurnForm(True, answer=schema)))
    assert asked["sampling_params"]["json_schema"] == '{"type": "object"}'
    assert asked["require_reasoning"] is True
    assert "structural_tag" in body(grammar=FormOnly(TurnForm(False, functions=({"name": "f"},))))["sampling_params"]
    free = body(grammar=FormOnly(TurnForm(True)))
    assert free["require_reasoning"] is True
    assert not {"json_schema", "structural_tag"} & set(free["sampling_params"])
    with pytest.raises(UnsupportedRequest, match="grammar"):
        body(grammar=FormOnly(None))


def test_experts_cannot_be_replayed() -> None:
    request = GenerateRequest("r", (1, 2), forced_experts=torch.zeros(2, 2, 2, dtype=torch.uint8))
    with pytest.raises(UnsupportedRequest, match="replayed"):
        request_body(request, "name", VOCABULARY, 1)


@pytest.mark.parametrize("name", ["session_id", "routing_key"])
def test_what_begins_alike_stays_in_one_group_and_all_groups_have_a_share(name: str) -> None:
    def group(value: str | None, num_groups: int) -> int | None:
        named: dict[str, Any] = {name: value}
        request = GenerateRequest("r", (1,), **named)
        found: int | None = request_body(request, "name", VOCABULARY, num_groups).get("routed_dp_rank")
        return found

    groups = [group(f"session {number}", 2) for number in range(64)]
    assert groups == [group(f"session {number}", 2) for number in range(64)]
    assert 16 < groups.count(0) < 48
    assert group("session 1", 1) is group(None, 2) is None


def test_salt_and_priority_travel() -> None:
    asked = request_body(GenerateRequest("r", (1,), cache_salt="ours", priority=5), "name", VOCABULARY, 1)
    assert (asked["cache_salt"], asked["priority"]) == ("ours", 5)
    assert "cache_salt" not in body()


def event(ids: list[int], num_tokens: int, reason: dict[str, Any] | None = None, **facts: Any) -> dict[str, Any]:
    return {
        "text": "",
        "output_ids": ids,
        "meta_info": {"completion_tokens": num_tokens, "finish_reason": reason, "cached_tokens": 2, **facts},
    }


@pytest.mark.parametrize("incremental", [True, False])
def test_tokens_come_once_whether_events_repeat_all_so_far_or_not(incremental: bool) -> None:
    reader, told = TokenReader(PLAIN, CONFIG), list[TokenEvent]()
    parts: list[list[int]] = [[5], [6, 7], [END]]
    for index, new in enumerate(parts):
        so_far = [token_id for part in parts[: index + 1] for token_id in part]
        reason = {"type": "stop", "matched": END} if index == 2 else None
        told += reader.read(event(new if incremental else so_far, len(so_far), reason))
    assert told == [TokenEvent(5, None, 2), TokenEvent(6, None, 2), TokenEvent(7, None, 2), TokenEvent(END, "stop", 2)]


def test_logarithms_belong_to_their_tokens() -> None:
    reader = TokenReader(GenerateRequest("r", (1,), SamplingParams(num_logprobs=1)), CONFIG)
    scores = [[-0.5, 5, None], [None, 6, None]]
    top = [[[-0.25, 4, None]], None]
    first, second = reader.read(event([5, 6], 2, output_token_logprobs=scores, output_top_logprobs=top))
    assert first.logprobs is not None
    assert (first.logprobs.sampled, first.logprobs.likeliest) == (-0.5, ((4, -0.25),))
    assert second.logprobs is not None
    assert (second.logprobs.sampled, second.logprobs.likeliest) == (float("-inf"), ())


@pytest.mark.parametrize("wanted_from", [0, 2, 5])
def test_routes_are_bytes_of_the_layers_with_experts_from_the_position_asked_for(wanted_from: int) -> None:
    request = GenerateRequest("r", (1, 2, 3), experts_from=wanted_from)
    start = request_body(request, "name", VOCABULARY, 1)["routed_experts_start_len"]
    assert start <= len(request.prompt_ids)  # SGLang refuses a later one
    everything = torch.randint(0, 8, (6, 3, 2), dtype=torch.int32)  # all positions but the last, all layers
    told = base64.b64encode(everything[start:].numpy().tobytes()).decode()
    (token,) = TokenReader(request, CONFIG).read(event([5], 1, {"type": "length"}, routed_experts=told))
    assert token.experts is not None
    assert token.experts.dtype == torch.uint8
    assert torch.equal(token.experts, everything[wanted_from:, 1:].to(torch.uint8))


@pytest.mark.parametrize(
    "told", ["AAAA", "!", base64.b64encode(torch.full((6,), 9, dtype=torch.int32).numpy().tobytes()).decode()]
)
def test_routes_that_cannot_be_this_models_are_an_error(told: str) -> None:
    reader = TokenReader(GenerateRequest("r", (1,), experts_from=0), CONFIG)
    with pytest.raises(EngineError, match="routed experts"):
        list(reader.read(event([5], 1, {"type": "length"}, routed_experts=told)))


def test_routes_that_were_not_recorded_name_the_flag() -> None:
    reader = TokenReader(GenerateRequest("r", (1,), experts_from=0), CONFIG)
    with pytest.raises(UnsupportedRequest, match="--enable-return-routed-experts"):
        list(reader.read(event([5], 1, {"type": "length"})))


@pytest.mark.parametrize(
    "nonsense",
    [
        event([], 1),
        event([5], 3),
        event([], 0, {"type": "stop"}),
        event([5], 1, {"type": "whim"}),
        {"output_ids": "five", "meta_info": {}},
        {"error": "broken"},
    ],
)
def test_an_event_that_makes_no_sense_is_an_error(nonsense: dict[str, Any]) -> None:
    with pytest.raises(EngineError):
        list(TokenReader(PLAIN, CONFIG).read(nonsense))


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (503, "The request queue is full.", Overloaded),
        (429, "slow down", Overloaded),
        (400, "Requested token count exceeds the model's maximum context length of 9 tokens.", ContextLengthExceeded),
        (400, "Failed to compile json grammar: bad", UnfollowableGrammar),
        (400, "top_p must be in (0, 1]", UnsupportedRequest),
        (503, "Request waiting timeout reached.", EngineUnavailable),
        (500, "CUDA error", EngineError),
        (401, "Unauthorized", EngineError),
    ],
)
def test_refusals_are_told_apart(status: int, message: str, kind: type[EngineError]) -> None:
    assert type(refusal(status, message)) is kind
    aborted = event([], 0, {"type": "abort", "message": message, "status_code": status})
    with pytest.raises(kind):
        list(TokenReader(PLAIN, CONFIG).read(aborted))


def test_an_abort_that_nobody_explains_means_that_it_is_away() -> None:
    with pytest.raises(EngineUnavailable, match="Aborted"):
        list(TokenReader(PLAIN, CONFIG).read(event([], 0, {"type": "abort", "message": "Aborted"})))


def test_a_prompt_that_does_not_go_on_from_all_tokens_before_begins_a_segment() -> None:
    segments, said = Segments(), list[int | None]()
    for prompt, sampled in (((1,), [2]), ((1, 2, 3), [4]), ((1, 2, 9), [5]), ((1, 2, 9, 5), [6]), ((1,), [7])):
        request = GenerateRequest("r", prompt, session_id="s")
        said.append(segments.begin(request))
        segments.end(request, said[-1], sampled)
    assert said == [0, 0, 1, 1, 2]
    assert segments.begin(GenerateRequest("r", (8,), session_id="s", cache_salt="other")) == 0
    assert segments.begin(PLAIN) is None


def test_only_the_sessions_used_latest_are_remembered() -> None:
    segments = Segments(max_sessions=2)
    for name in ("a", "b", "a", "c"):
        request = GenerateRequest("r", (1,), session_id=name)
        segments.end(request, 3, [])
    assert segments.begin(GenerateRequest("r", (1,), session_id="a")) == 3
    assert segments.begin(GenerateRequest("r", (1,), session_id="b")) == 0
