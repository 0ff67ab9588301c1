"""The fields that say what form an answer must have: ``tool_choice`` and ``response_format``."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from model_server.server.body import Fields


class NamedTool(Fields):
    """The one function that is to be called."""

    name: str


def _read_choice(value: object) -> object:
    match value:
        case "auto" | "none" | "required":
            return value
        case {"type": "function", "function": {"name": str(name), **unknown}, **others} if not unknown and not others:
            return NamedTool(name=name)
    forms = '"auto", "none", "required" or {"type": "function", "function": {"name": "..."}}'
    raise PydanticCustomError("tool_choice", "Use {forms}", {"forms": forms})


ToolChoice = Annotated[Literal["auto", "none", "required"] | NamedTool, BeforeValidator(_read_choice)]


class AnswerSchema(Fields):
    """JSON that the answer must be. It is always enforced, whatever ``strict`` says."""

    name: str = Field(min_length=1)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Fields):
    """What the text of an answer must be."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: AnswerSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> "ResponseFormat":
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise PydanticCustomError(
                "response_format", 'json_schema belongs to the type "json_schema", and only there'
            )
        return self
