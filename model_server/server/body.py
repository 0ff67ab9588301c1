"""The body of a request: JSON, checked against a schema once, refused with the path of what is wrong."""

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from starlette.requests import ClientDisconnect, Request

from model_server.server.errors import ApiError

JsonObject = dict[str, Any]

Neutral = Mapping[str, tuple[Any, ...]]
"""Known fields that this server does not have, with the values that ask for nothing."""


class Fields(BaseModel):
    """A JSON object of a request."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PastFields(Fields):
    """A piece of the conversation so far. Clients send answers back with fields of their own, which change nothing;
    only one that looks like a field of this server is refused, since what it says would be lost."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _no_misspelling(cls, value: object) -> object:
        for name in value.keys() - cls.model_fields.keys() if isinstance(value, dict) else ():
            if get_close_matches(name, cls.model_fields, n=1, cutoff=_ALIKE):
                raise PydanticCustomError(_MISSPELT, "{name} is misspelt", {"name": name})
        return value


_ALIKE = 0.9
"""One wrong letter in ten."""
_MISSPELT = "misspelt_field"

_PARTS, _PARTS_PER_TOKEN = 2**16, 2
"""Commas and opening brackets of a request, in texts too, beside and in its context. Parsing stops everything else, and
takes as long as there are values, which these count: a second for a few megabytes of nothing but brackets."""

_Checked = TypeVar("_Checked", bound=Fields)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, of at most ``limit`` bytes.

    Raises:
        ApiError: it is larger, or its sender left.
    """
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                message = f"The request body is larger than {limit} bytes. Shorten the conversation."
                raise ApiError(message, status=413, code="request_too_large")
    except ClientDisconnect as error:
        raise ApiError("The client left before its request was complete.", code="client_gone") from error
    return b"".join(chunks)


def json_object(body: bytes, context_length: int | None = None) -> JsonObject:
    """The body's fields.

    Raises:
        ApiError: it is no JSON object, or has many times what could fill a context of so many tokens.
    """
    num_parts = len(body) - len(body.translate(None, b",[{"))
    if context_length is not None and num_parts > _PARTS + _PARTS_PER_TOKEN * context_length:
        message = f"The request has {num_parts} commas and brackets, more than {context_length} tokens can hold."
        raise ApiError(f"{message} Shorten it.", code="context_length_exceeded")
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(f"The request body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(parsed, dict):
        raise ApiError("The request body must be a JSON object.", code="invalid_json")
    return parsed


def checked(schema: type[_Checked], fields: JsonObject) -> _Checked:
    """Raises ApiError with the first problem; one is enough to act on."""
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        raise _invalid(error) from error


def present(fields: JsonObject, ignored: Sequence[str] = ()) -> JsonObject:
    """The fields that matter: those that are null are treated as absent."""
    return {name: value for name, value in fields.items() if value is not None and name not in ignored}


def without_neutral(fields: JsonObject, neutral: Neutral, prefix: str = "") -> JsonObject:
    """The fields that ask for something this server may have.

    Raises:
        ApiError: one asks for what it has not.
    """
    for name, values in neutral.items():
        if name in fields and fields[name] not in values:
            remedy = f" or set it to {json.dumps(values[0])}" if values else ""
            raise unsupported(f"{prefix}{name} is not supported by this server. Leave it out{remedy}.", prefix + name)
    return {name: value for name, value in fields.items() if name not in neutral}


def unsupported(message: str, param: str) -> ApiError:
    """A known field, or value, that this server does not have."""
    return ApiError(message, code="unsupported_parameter", param=param)


def _invalid(error: ValidationError) -> ApiError:
    problem = error.errors(include_url=False, include_input=False)[0]
    param = _path(_place(problem))
    if problem["type"] in ("extra_forbidden", _MISSPELT):
        return ApiError(
            f"Unknown field {param}. Check its spelling, or leave it out.", code="unknown_parameter", param=param
        )
    return ApiError(f"{param}: {problem['msg']}.", param=param)


def _place(problem: ErrorDetails) -> tuple[int | str, ...]:
    return (*problem["loc"], problem["ctx"]["name"]) if problem["type"] == _MISSPELT else problem["loc"]


def _path(location: Sequence[int | str]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")
