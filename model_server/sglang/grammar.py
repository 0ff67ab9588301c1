"""The form of a turn in the words of SGLang's grammar backend, xgrammar."""

import json
from collections.abc import Mapping
from typing import Any

from model_server.types import TurnForm

Json = dict[str, Any]


def constraint(form: TurnForm) -> Json:
    """Sampling parameters that enforce a form once thinking is over; none where the answer is free."""
    if not form.functions:
        return {} if form.answer is None else {"json_schema": json.dumps(form.answer)}
    calls = _calls(form)
    whole = calls if form.answer is None else {"type": "or", "elements": [_json(form.answer), calls]}
    return {"structural_tag": json.dumps({"type": "structural_tag", "format": whole})}


def _calls(form: TurnForm) -> Json:
    """One call or more, as ``chat.template`` writes them and ``chat.tool_parser`` reads them."""
    tags = [_call(function) for function in form.functions]
    if form.num_calls is None or form.num_calls == 1:
        return {
            "type": "tags_with_separator",
            "tags": tags,
            "separator": "",
            "at_least_one": True,
            "stop_after_first": form.num_calls == 1,
        }
    one = {"type": "or", "elements": tags}
    return {"type": "repeat", "min": form.num_calls, "max": form.num_calls, "content": one}


def _call(function: Mapping[str, Any]) -> Json:
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    return {
        "type": "tag",
        "begin": f"<tool_call>\n<function={function['name']}>\n",
        # The style of tags is named after the family that had it first; MiMo's are the same.
        "content": {"type": "json_schema", "style": "qwen_xml", "json_schema": parameters},
        "end": "</function>\n</tool_call>",
    }


def _json(schema: Mapping[str, Any]) -> Json:
    return {"type": "json_schema", "json_schema": dict(schema)}
