"""Asks the real SGLang. Runs in build/sglang (see setup.sh): questions on standard input, answers on output.

Everything it imports of SGLang is imported where it is needed, so that one change there fails one test here.
"""

import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def parsed(arguments: list[str]) -> Json:
    """The fields of the server's arguments that a command line sets."""
    from sglang.srt.arg_groups.arg_utils import record_fields
    from sglang.srt.server_args import prepare_server_args

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            found = prepare_server_args(arguments)
    except SystemExit:
        return {"refused": complaint.getvalue().splitlines()[-1]}
    values = {field.name: getattr(found, field.name, None) for field in record_fields(type(found))}
    return {name: value for name, value in values.items() if isinstance(value, bool | int | float | str | dict)}


def flags(_: None) -> list[str]:
    """Every flag of the command line, without its dashes."""
    from argparse import ArgumentParser

    from sglang.srt.server_args import ServerArgs

    parser = ArgumentParser(add_help=False)
    ServerArgs.add_cli_args(parser)
    return sorted(option[2:] for action in parser._actions for option in action.option_strings if option[:2] == "--")


def resolved(arguments: list[str]) -> Json:
    """What SGLang makes of its arguments and of the model's configuration."""
    from sglang.srt.server_args import prepare_server_args

    arguments_of_server = prepare_server_args(arguments)
    arguments_of_server.resolve_once()
    found = arguments_of_server.resolved_dict()
    return {name: value for name, value in found.items() if isinstance(value, bool | int | float | str)}


def admitted(body: Json) -> Json:
    """A request as SGLang's server takes it in: its schema, its class, its sampling parameters."""
    from pydantic import TypeAdapter
    from sglang.api.v1.api_types import GenerateRequest
    from sglang.srt.managers.io_struct import GenerateReqInput
    from sglang.srt.sampling.sampling_params import SamplingParams

    GenerateRequest.from_json_value(body)
    request = TypeAdapter(GenerateReqInput).validate_python(body)
    request.normalize_batch_and_arguments()
    sampling = SamplingParams(**request.sampling_params)
    sampling.normalize(None)
    sampling.verify(vocab_size=152_576)
    return {
        "unknown": sorted(set(body) - set(GenerateReqInput.__dataclass_fields__)),
        "stop_token_ids": sorted(sampling.stop_token_ids or ()),
        "top_k": sampling.top_k,
        "rid": request.rid,
    }


def weights_taken(body: Json) -> Json:
    """A request for new weights as SGLang's server reads it."""
    from pydantic import TypeAdapter
    from sglang.srt.managers.io_struct import UpdateWeightFromDiskReqInput

    read = TypeAdapter(UpdateWeightFromDiskReqInput).validate_python(body)
    return {name: getattr(read, name) for name in (*body, "flush_cache")}


def answered(body: Json) -> Json:
    """A response as SGLang's own schema reads it, and its routes as SGLang's own clients read them."""
    from sglang.api.v1.api_types import GenerateResponse
    from sglang.srt.state_capturer.routed_experts import extract_routed_experts_from_meta_info

    read: Json = GenerateResponse.from_json_value(body).to_json_value()
    if "routed_experts" in body["meta_info"]:
        read["routes"] = extract_routed_experts_from_meta_info(body).tolist()
    return read


def finish_reasons(_: None) -> list[Json]:
    from sglang.srt.managers.schedule_batch import FINISH_ABORT, FINISH_LENGTH, FINISH_MATCHED_TOKEN

    return [
        FINISH_MATCHED_TOKEN(matched=7).to_json(),
        FINISH_LENGTH(length=3).to_json(),
        FINISH_ABORT("The request queue is full.", 503).to_json(),
    ]


def sliced_keys(_: None) -> list[str]:
    """What of ``meta_info`` a stream of new tokens has for the new ones only."""
    from sglang.srt.managers.tokenizer_manager import _INCREMENTAL_STREAMING_META_INFO_KEYS

    return list(_INCREMENTAL_STREAMING_META_INFO_KEYS)


def thinking_tokens(budget: int) -> int:
    """How many tokens come before the end of thinking is put in."""
    from sglang.srt.constrained.reasoner_grammar_backend import ReasonerGrammarObject

    is_end_forced: list[bool] = []

    def record(
        mask: object, ids: object, index: object, is_allowed: bool = True, reset_vocab_mask: bool = True
    ) -> None:
        is_end_forced.append(is_allowed)

    grammar = ReasonerGrammarObject(
        None,
        [2],
        think_excluded_token_ids=[9],
        max_think_tokens=budget,
        enable_token_filter=True,
        token_filter_fn=record,
    )
    grammar.maybe_init_reasoning(True)
    for num_tokens in range(1000):
        grammar.fill_vocab_mask(None, 0)
        if is_end_forced[-1]:
            return num_tokens
        grammar.accept_token(5)
    raise AssertionError("thinking is endless")


def matched(question: Json) -> list[bool]:
    """Which texts a structural tag allows as a whole."""
    import xgrammar

    alphabet = [chr(code) for code in range(32, 127)] + ["\n", "<end>"]
    tokens = xgrammar.TokenizerInfo(alphabet, stop_token_ids=[len(alphabet) - 1])
    grammar = xgrammar.Grammar.from_structural_tag(question["structural_tag"])
    compiled = xgrammar.GrammarCompiler(tokens).compile_grammar(grammar)
    return [_allows(xgrammar.GrammarMatcher(compiled), text) for text in question["texts"]]


def _allows(matcher: Any, text: str) -> bool:
    return all(matcher.accept_string(character) for character in text) and bool(matcher.is_completed())


def source_says(question: Json) -> bool:
    """Whether a file of SGLang still has certain words: messages have no class to import."""
    import sglang

    words = (Path(sglang.__path__[0]) / question["file"]).read_text("utf-8")
    return question["words"] in words


_ASKED: dict[str, Callable[[Any], Any]] = {
    function.__name__: function
    for function in (
        parsed,
        flags,
        resolved,
        admitted,
        answered,
        weights_taken,
        finish_reasons,
        sliced_keys,
        thinking_tokens,
        matched,
        source_says,
    )
}


def main() -> None:
    """A question is a line, ``[name, argument]``; its answer is one too, ``{"answer": ...}`` or ``{"error": ...}``."""
    output = sys.stdout
    sys.stdout = sys.stderr  # whatever SGLang prints is no answer
    for line in sys.stdin:
        name, argument = json.loads(line)
        try:
            answer = {"answer": _ASKED[name](argument)}
        except Exception as error:  # noqa: BLE001 (the test that asked is told)
            answer = {"error": repr(error)}
        print(json.dumps(answer), file=output, flush=True)


if __name__ == "__main__":
    main()
