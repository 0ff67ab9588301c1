"""A grammar leaves exactly the tokens its form allows, whatever the model would rather say."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import torch

from model_server.chat.markers import CONTROL_MARKERS, END_THINK, IM_END, THINK, TOOL_CALL
from model_server.chat.template import Span
from model_server.chat.tokens import ChatTokenizer
from model_server.chat.turn import AssistantTurn, parse_turn
from model_server.engine.draft_policy import NO_SPECULATION, Speculation
from model_server.engine.engine import EmbeddedEngine
from model_server.engine.grammar import GrammarCompiler, GrammarError
from model_server.engine.sampler import Drawing, draw
from model_server.types import EngineError, GenerateRequest, Grammar, SamplingParams, TokenEvent, UnfollowableGrammar
from tests.numerics.small_models import random_model, small_config
from tests.unit.model_server.small_tokenizer import small_tokenizer

pytestmark = pytest.mark.anyio

TOKENIZER = ChatTokenizer(small_tokenizer())
COMPILER = GrammarCompiler(TOKENIZER)
END = TOKENIZER.marker_id(IM_END)
CONFIG = small_config(vocab_size=TOKENIZER.vocab_size + 6)
"""With padding rows, as published checkpoints have them."""
EVEN = torch.zeros(CONFIG.vocab_size)
PAIR = {
    "type": "object",
    "properties": {"count": {"type": "integer", "maximum": 99}, "kind": {"enum": ["a", "b"]}},
    "required": ["count", "kind"],
    "additionalProperties": False,
}


def tool(name: str, properties: Mapping[str, Any], required: tuple[str, ...] = (), **rest: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required), **rest}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


VARIED = tool(
    "set.all",
    {
        "text": {"type": "string", "maxLength": 9},
        "mode": {"type": "string", "enum": ["r", "", 'w"\n</w>']},
        "count": {"type": "integer", "minimum": 1, "maximum": 40},
        "sure": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
        "place": {"$ref": "#/$defs/place"},
        "left": {"type": "integer", "maximum": 5, "minimum": 0},
        "anything": {"const": "x"},
    },
    ("text", "mode", "count", "sure", "tags", "place"),
    **{"$defs": {"place": PAIR}},
)


def sampled(grammar: Grammar, seed: int, most: int = 600) -> list[int]:
    """What a model says to which all tokens are equally likely."""
    state, ids = grammar.start(), list[int]()
    for position in range(most):
        ids += draw(state.mask(EVEN)[None], Drawing.of(SamplingParams()), [(seed, position)])
        state.accept(ids[-1])
        if ids[-1] == END:
            return ids
    raise AssertionError(TOKENIZER.decode(ids))


def turn(ids: list[int], tools: list[dict[str, Any]], *, enable_thinking: bool = False) -> AssistantTurn:
    assert ids[-1] == END
    return parse_turn(TOKENIZER.decode(ids[:-1]), tools, enable_thinking=enable_thinking)


@pytest.mark.parametrize("seed", range(20))
def test_a_forced_call_is_one_that_the_parser_reads_without_complaint(seed: int) -> None:
    said = turn(sampled(COMPILER.turn(enable_thinking=False, tools={"t": VARIED}, num_calls=1), seed), [VARIED])
    assert (said.content, said.flags, [call.name for call in said.calls]) == ("", frozenset(), ["set.all"])
    arguments = json.loads(said.calls[0].arguments)
    assert {"text", "mode", "count", "sure", "tags", "place"} <= set(arguments)
    assert list(arguments) == [name for name in VARIED["function"]["parameters"]["properties"] if name in arguments]
    assert len(arguments["text"]) <= 9
    assert arguments["mode"] in ("r", "", 'w"\n</w>')
    assert 1 <= arguments["count"] <= 40
    assert isinstance(arguments["sure"], bool)
    assert len(arguments["tags"]) <= 2
    assert set(arguments["place"]) == {"count", "kind"}
    assert arguments.get("left", 0) in range(6)
    assert arguments.get("anything", "x") == "x"


def test_required_calls_are_any_number_of_any_of_the_tools_and_nothing_else() -> None:
    tools = {"a": tool("one", {}), "b": tool("two", {"sure": {"type": "boolean"}})}
    grammar = COMPILER.turn(enable_thinking=False, tools=tools)
    turns = [turn(sampled(grammar, seed), [*tools.values()]) for seed in range(20)]
    assert {said.content for said in turns} == {""}
    assert {len(said.calls) for said in turns} >= {1, 2, 3}
    assert {call.name for said in turns for call in said.calls} == {"one", "two"}
    assert {call.arguments for said in turns for call in said.calls if call.name == "two"} == {
        "{}",
        '{"sure": true}',
        '{"sure": false}',
    }


def test_every_spelling_of_a_boolean_that_the_parser_reads_may_be_said() -> None:
    sure = tool("f", {"sure": {"type": ["boolean", "null"]}}, ("sure",))
    grammar = COMPILER.turn(enable_thinking=False, tools={"t": sure}, num_calls=1)
    texts = Counter("".join(span.text for span in TOKENIZER.decode(sampled(grammar, seed))) for seed in range(80))
    assert {text.split("sure>")[1].split("<")[0] for text in texts} == {
        "true",
        "false",
        "True",
        "False",
        "null",
        "None",
    }


def test_choices_and_names_hold_any_characters() -> None:
    choices = ["\0\x01\x7f", "a\\nb", "tab\t", "é😀\u2028", "#//x", "%json {", "'\"", "\\", "/re/i", "<[3]>"]
    odd = tool("f", {'a"\\b #': {"enum": choices}}, ('a"\\b #',))
    grammar = COMPILER.turn(enable_thinking=False, tools={"t": odd}, num_calls=1)
    said = [turn(sampled(grammar, seed), [odd]).calls[0].arguments for seed in range(80)]
    assert {json.loads(arguments)['a"\\b #'] for arguments in said} == set(choices)


@pytest.mark.parametrize("seed", range(5))
def test_an_answer_is_json_of_its_schema_or_a_call_where_both_may_come(seed: int) -> None:
    ping = tool("ping", {})
    alone = turn(sampled(COMPILER.turn(enable_thinking=False, answer=PAIR), seed), [])
    assert set(json.loads(alone.content)) == {"count", "kind"}
    either = turn(sampled(COMPILER.turn(enable_thinking=False, answer=PAIR, tools={"t": ping}), seed), [ping])
    assert either.calls if not either.content else set(json.loads(either.content)) == {"count", "kind"}


def test_thinking_comes_first_and_is_free_but_neither_ends_the_turn_nor_calls() -> None:
    state = COMPILER.turn(enable_thinking=True, answer=PAIR).start()
    assert possible(state.mask(EVEN)) == {TOKENIZER.marker_id(THINK)}
    state.accept(TOKENIZER.marker_id(THINK))
    ends = {TOKENIZER.marker_id(marker) for marker in CONTROL_MARKERS} - {TOKENIZER.marker_id(END_THINK)}
    assert possible(state.mask(EVEN)) == set(range(CONFIG.vocab_size)) - ends
    for token in TOKENIZER.encode_text("{ so"):
        state.accept(token)
    state.accept(TOKENIZER.marker_id(END_THINK))
    assert {TOKENIZER.token_bytes(token)[:1] for token in possible(state.mask(EVEN))} == {b"{"}


def test_without_a_form_only_a_call_within_thinking_is_impossible() -> None:
    call = TOKENIZER.marker_id(TOOL_CALL)
    state = COMPILER.turn(enable_thinking=True).start()
    assert state.mask(EVEN) is EVEN
    state.accept(TOKENIZER.marker_id(THINK))
    assert possible(state.mask(EVEN)) == set(range(CONFIG.vocab_size)) - {call}
    state.accept(TOKENIZER.marker_id(END_THINK))
    assert state.mask(EVEN) is EVEN
    unthinking = COMPILER.turn(enable_thinking=True).start()
    unthinking.accept(5)
    assert unthinking.mask(EVEN) is EVEN


def test_a_mask_leaves_the_shares_of_what_is_possible_as_they_are() -> None:
    state = COMPILER.turn(enable_thinking=False, answer={"enum": [1, 2, 3]}).start()
    logits = torch.randn(CONFIG.vocab_size, generator=torch.Generator().manual_seed(0))
    masked = state.mask(logits)
    ids = sorted(possible(masked))
    assert torch.equal(masked[ids], logits[ids])
    shares = logits[ids].softmax(-1)
    rows = masked.expand(3000, -1)
    drawn = Counter(draw(rows, Drawing.of(SamplingParams()), [(1, position) for position in range(3000)]))
    for token, share in zip(ids, shares.tolist(), strict=True):
        assert abs(drawn[token] / 3000 - share) < 0.04
    likeliest = draw(masked[None], Drawing.of(SamplingParams(temperature=0)), [(1, 1)])
    assert likeliest == [ids[int(shares.argmax())]]


def test_a_vocabulary_with_whole_prompts_as_tokens_and_calls_in_few_tokens_is_served() -> None:
    tokenizer = small_tokenizer()
    header = "\n<function=one>\n<parameter=text>"
    tokenizer.add_tokens(["x" * 5000, header, "</parameter>\n</function>\n"])
    wide = ChatTokenizer(tokenizer)
    tools = {"a": tool("one", {"text": {"type": "string"}}, ("text",)), "b": tool("two", {})}
    state = GrammarCompiler(wide).turn(enable_thinking=False, tools=tools, num_calls=1).start()
    call = [Span(TOOL_CALL, True), Span(f"{header}x < y</parameter>\n</function>\n", False), Span("</tool_call>", True)]
    ids = [*wide.encode(call), wide.marker_id(IM_END)]
    assert len(ids) < 12
    for token in ids:
        assert token in possible(state.mask(torch.zeros(wide.vocab_size)))
        state.accept(token)


def test_a_token_that_may_not_come_is_refused() -> None:
    state = COMPILER.turn(enable_thinking=False, answer=PAIR).start()
    with pytest.raises(UnfollowableGrammar):
        state.accept(TOKENIZER.encode_text("x")[0])


def test_a_form_that_grows_too_complex_is_refused_for_that_and_nothing_of_the_librarys_state() -> None:
    choices = [{"type": "object", "properties": {f"k{index}": {}}, "required": [f"k{index}"]} for index in range(3000)]
    state = COMPILER.turn(enable_thinking=False, answer={"anyOf": choices}).start()
    with pytest.raises(UnfollowableGrammar) as stuck:
        state.accept(TOKENIZER.encode_text("{")[0])
    assert "max is 2000" in str(stuck.value)
    assert "state" not in str(stuck.value)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "strin"}, "Invalid type: strin"),
        ({"type": "array", "uniqueItems": True}, 'Unimplemented keys: ["uniqueItems"]'),
        ({"type": "string", "pattern": "(?=a)"}, "look-around"),
        ({"$ref": "#/nowhere"}, "'/nowhere' does not exist"),
        ({"$ref": "http://127.0.0.1:9/schema"}, "does not fetch"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "nothing fits"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_with_the_reason(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(GrammarError) as refused:
        COMPILER.turn(enable_thinking=False, answer=schema)
    assert reason in str(refused.value)
    assert "start:" not in str(refused.value)


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"properties": {"a": {"type": "integer"}, "b": {"type": "number", "multipleOf": "x"}}}, ".properties.b"),
        ({"properties": {"a": {"enum": []}}}, ".properties.a"),
        ({"properties": {"a": {"enum": "ab"}}}, ".properties.a"),
        ({"properties": {"a": {"enum": ["</parameter>"]}}}, ".properties.a"),
        ({"properties": {"a": {"type": "string", "maxLength": "9"}}}, ".properties.a"),
        ({"properties": {"a": {}}, "required": ["b"]}, ".required"),
        ({"properties": {"a": {}}, "required": "a"}, ".required"),
        ({"properties": {"a": {}}, "required": [["a"]]}, ".required"),
    ],
)
def test_a_tool_that_cannot_be_enforced_is_refused_with_its_path(parameters: dict[str, Any], param: str) -> None:
    bad = {"type": "function", "function": {"name": "bad", "parameters": parameters}}
    with pytest.raises(GrammarError) as refused:
        COMPILER.turn(enable_thinking=False, tools={"tools[0]": tool("good", {}), "tools[1]": bad})
    assert refused.value.param == f"tools[1].function.parameters{param}"


@pytest.fixture(scope="module")
async def engines() -> AsyncIterator[tuple[EmbeddedEngine, EmbeddedEngine]]:
    model = random_model(CONFIG, num_mtp_layers=3)
    pair = [
        EmbeddedEngine(model, context_length=512, speculation=allowed)
        for allowed in (Speculation(always=True), NO_SPECULATION)
    ]
    yield pair[0], pair[1]
    for engine in pair:
        await engine.close()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_random_model_keeps_to_a_grammar_the_same_with_and_without_drafts(
    engines: tuple[EmbeddedEngine, EmbeddedEngine], temperature: float
) -> None:
    grammar = COMPILER.turn(enable_thinking=False, tools={"t": VARIED}, num_calls=1)
    for seed in range(2):
        sampling = SamplingParams(
            temperature, seed=seed, max_tokens=400, stop_ids=TOKENIZER.end_ids, num_logprobs=1, grammar=grammar
        )
        request = GenerateRequest("x", tuple(TOKENIZER.encode_text(f"prompt {seed}")), sampling)
        with_drafts, without = [await generated(engine, request) for engine in engines]
        ids = [event.token_id for event in with_drafts]
        assert ids == [event.token_id for event in without]
        assert with_drafts[-1].finish_reason == "stop"
        assert {call.name for call in turn(ids, [VARIED]).calls} == {"set.all"}
    assert engines[0].stats().drafted > engines[0].stats().accepted


async def test_drafts_that_the_grammar_forbids_are_rejected() -> None:
    model = random_model(CONFIG, num_mtp_layers=3)
    model.lm_head.weight.zero_()  # whoever is asked, token 0 is first among equals: no number begins so
    engine = EmbeddedEngine(model, context_length=256, speculation=Speculation(lookup=0, always=True))
    grammar = COMPILER.turn(enable_thinking=False, answer={"type": "array", "items": {"type": "integer"}})
    events = await generated(
        engine, GenerateRequest("x", (1, 2, 3), SamplingParams(0.0, max_tokens=100, grammar=grammar))
    )
    stats = engine.stats()
    await engine.close()
    [said] = TOKENIZER.decode([event.token_id for event in events])
    assert said.text.startswith("[-0,-0,-0,")
    assert stats.drafted > stats.accepted == 0


async def test_a_sequence_that_cannot_go_on_fails_alone(engines: tuple[EmbeddedEngine, EmbeddedEngine]) -> None:
    class Stuck:
        form = None

        def start(self) -> "Stuck":
            return self

        def mask(self, logits: torch.Tensor) -> torch.Tensor:
            raise UnfollowableGrammar("too complex")

        def accept(self, token_id: int) -> None:
            raise AssertionError(token_id)

    free = engines[0].generate(GenerateRequest("free", (1, 2, 3), SamplingParams(0.0, max_tokens=30)))
    await anext(free)
    with pytest.raises(EngineError, match="too complex"):
        await generated(engines[0], GenerateRequest("stuck", (1, 2, 3), SamplingParams(max_tokens=5, grammar=Stuck())))
    assert [event async for event in free][-1].finish_reason == "length"


def possible(logits: torch.Tensor) -> set[int]:
    return set(logits.isfinite().nonzero().flatten().tolist())


async def generated(engine: EmbeddedEngine, request: GenerateRequest) -> list[TokenEvent]:
    return [event async for event in engine.generate(request)]


@pytest.mark.parametrize(
    "limit",
    [{"minimum": -(2**63)}, {"maximum": 2**53}, {"exclusiveMaximum": 1e300}, {"enum": [1, 2**64]}, {"const": -(2**53)}],
    ids=str,
)
def test_limits_that_floats_cannot_tell_apart_are_refused(limit: dict[str, Any]) -> None:
    count = {"type": "integer", **limit}
    with pytest.raises(GrammarError, match=f"{next(iter(limit))} has a number beyond 2"):
        COMPILER.turn(enable_thinking=False, answer={"type": "object", "properties": {"count": count}})
    with pytest.raises(GrammarError, match="no longer exact") as refused:
        COMPILER.turn(enable_thinking=False, tools={"t": tool("f", {"count": count})})
    assert refused.value.param == "t.function.parameters.properties.count"


def test_limits_of_safe_integers_and_numbers_that_limit_nothing_are_taken() -> None:
    safe = {"type": "integer", "minimum": 1 - 2**53, "maximum": 2**53 - 1, "default": 2**70}
    COMPILER.turn(enable_thinking=False, answer={"type": "object", "properties": {"maximum": safe}})
