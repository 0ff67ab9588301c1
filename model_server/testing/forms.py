"""Forms as they come to SGLang, for an engine of ours to follow: the inverse of ``sglang.grammar``."""

import json
from collections.abc import Mapping
from typing import Any

from model_server.chat.tokens import ChatTokenizer
from model_server.engine.grammar import GrammarCompiler
from model_server.testing.fake_sglang import GrammarFields
from model_server.types import Grammar

Json = Mapping[str, Any]


class FormReader:
    """Makes grammars for one vocabulary."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._compiler = GrammarCompiler(tokenizer)

    def __call__(self, fields: GrammarFields) -> Grammar | None:
        """None where everything may be said.

        Raises:
            ValueError: our client would not have sent this.
        """
        thinking = fields.require_reasoning
        if fields.json_schema is not None:
            return self._compiler.turn(enable_thinking=thinking, answer=json.loads(fields.json_schema))
        if fields.structural_tag is None:
            return self._compiler.turn(enable_thinking=True) if thinking else None
        form = json.loads(fields.structural_tag)["format"]
        answer, calls = form["elements"] if form["type"] == "or" else (None, form)
        return self._compiler.turn(
            enable_thinking=thinking,
            answer=None if answer is None else answer["json_schema"],
            tools={f"tools[{index}]": _tool(tag) for index, tag in enumerate(_tags(calls))},
            num_calls=_num_calls(calls),
        )


def _tags(calls: Json) -> list[Json]:
    tags: list[Json] = calls["content"]["elements"] if calls["type"] == "repeat" else calls["tags"]
    return tags


def _num_calls(calls: Json) -> int | None:
    if calls["type"] == "repeat":
        return int(calls["min"])
    return 1 if calls["stop_after_first"] else None


def _tool(tag: Json) -> dict[str, Any]:
    name = str(tag["begin"]).removeprefix("<tool_call>\n<function=").removesuffix(">\n")
    return {"type": "function", "function": {"name": name, "parameters": tag["content"]["json_schema"]}}
