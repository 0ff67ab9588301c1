"""The form an answer must have, from what its request says about tools and JSON."""

from model_server.chat.template import JsonObject
from model_server.engine.grammar import GrammarCompiler, GrammarError
from model_server.server.answer_form import NamedTool, ResponseFormat
from model_server.server.errors import ApiError
from model_server.server.schemas import ChatRequest
from model_server.types import Grammar

_ANSWER = "response_format.json_schema.schema"


def turn_grammar(request: ChatRequest, compiler: GrammarCompiler) -> Grammar | None:
    """What the turn may be. A call that must come goes before a format; where it need not, either may come.

    Raises:
        ApiError: a schema is wrong, or asks for what cannot be enforced.
    """
    thinking, choice = request.enable_thinking, request.tool_choice
    tools = {f"tools[{index}]": tool for index, tool in enumerate(request.offered_tools)}
    answer = _schema(request.response_format)
    try:
        if isinstance(choice, NamedTool):
            named = {path: tool for path, tool in tools.items() if tool["function"]["name"] == choice.name}
            return compiler.turn(enable_thinking=thinking, tools=named, num_calls=1)
        if choice == "required":
            return compiler.turn(
                enable_thinking=thinking, tools=tools, num_calls=None if request.parallel_tool_calls else 1
            )
        if answer is not None:
            return compiler.turn(enable_thinking=thinking, answer=answer, tools=tools)
    except GrammarError as error:
        remedy = "Change the schema, or ask for no form."
        param = error.param or (_ANSWER if answer is not None else "tools")
        raise ApiError(f"{param} cannot be enforced: {error}. {remedy}", code="invalid_schema", param=param) from error
    return compiler.turn(enable_thinking=True) if tools and thinking else None


def _schema(form: ResponseFormat) -> JsonObject | None:
    match form.type:
        case "text":
            return None
        case "json_object":
            return {"type": "object"}
        case "json_schema":
            assert form.json_schema is not None, form
            return form.json_schema.schema_
