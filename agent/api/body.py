"""Reads JSON bodies, strictly: no text for numbers, no truth values for counts, no unknown fields."""

from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from agent.api.problems import FieldError, Problem, invalid_input

_T = TypeVar("_T", bound=BaseModel)


async def read_body(request: Request, kind: type[_T]) -> _T:
    """
    Raises:
        Problem: the body is of another type, no JSON, or not what ``kind`` says.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        # A form of a foreign page can send any other type without asking first.
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            f"The body is {media_type or 'of no stated type'}, not application/json.",
            remedy="Send the header 'Content-Type: application/json'.",
        )
    try:
        return kind.model_validate_json(await request.body(), strict=True)
    except ValidationError as error:
        raise invalid_input(error.errors(include_url=False, include_context=False)) from error


def described(kind: type[BaseModel]) -> dict[str, Any]:
    """What a route that reads its body by itself adds to its description."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def rejected(pointer: str, detail: str, remedy: str, *, code: str = "invalid_request") -> Problem:
    """A value that is of the right type and still cannot be.

    Args:
        pointer: JSON pointer into the body, such as ``/repository``.
    """
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        code,
        f"#{pointer}: {detail}",
        remedy=remedy,
        errors=[FieldError(pointer=f"#{pointer}", detail=detail)],
    )
