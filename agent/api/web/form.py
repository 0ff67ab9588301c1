"""What people type into the pages' forms."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from pydantic import BaseModel, TypeAdapter, ValidationError

from agent.api.problems import Problem
from agent.api.schemas import Image, Images
from agent.types import Limits, ModelOptions, TaskRequest

Form = Mapping[str, str]
_Shape = TypeVar("_Shape", bound=BaseModel)

_MAX_FIELDS = 64
_THINKING: Mapping[str, bool | str] = {"on": True, "off": False, "auto": "auto"}


@dataclass(frozen=True, slots=True)
class Rejected(Exception):
    """The form cannot be used as it is."""

    errors: Mapping[str, str]
    """What is wrong, by field."""


async def read_form(request: Request) -> Form:
    """The fields of a posted form.

    Raises:
        Problem: it comes from no page of this service, or is no form.
    """
    if "origin" not in request.headers:
        # The gate refuses foreign origins; every browser says one with a form.
        raise _unreadable(HTTPStatus.FORBIDDEN, "The form does not say which page it comes from.")
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise _unreadable(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body is not a form.")
    try:
        text = (await request.body()).decode("ascii")
        return dict(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS))
    except ValueError as error:
        raise _unreadable(HTTPStatus.BAD_REQUEST, "The form cannot be read.") from error


def _unreadable(status: HTTPStatus, detail: str) -> Problem:
    return Problem(status, "unreadable_form", detail, remedy="Open the page anew and send its form from there.")


def empty_task_form() -> dict[str, str]:
    """What the form of a new task shows at first."""
    # Nothing is checked here: an empty text is no task yet.
    blank = TaskRequest.model_construct(
        repository="", base_commit="HEAD", problem_statement="", limits=Limits(), model=ModelOptions(), labels={}
    )
    return filled_task_form(blank)


def filled_task_form(request: TaskRequest) -> dict[str, str]:
    """What the form shows to ask the same again."""
    return {
        "repository": request.repository,
        "base_commit": request.base_commit,
        "problem_statement": request.problem_statement,
        "checks": "\n".join(check.command for check in request.checks),
        "attempts": str(request.attempts),
        "max_steps": str(request.limits.max_steps),
        "max_tokens": str(request.limits.max_tokens),
        "minutes": f"{request.limits.wall_clock_s / 60:g}",
        "model": request.model.name or "",
        "thinking": next(word for word, value in _THINKING.items() if value == request.model.thinking),
        "priority": request.priority,
        "approvals": request.approvals,
        "on_limit": request.on_limit,
        "labels": ", ".join(f"{name}={value}" for name, value in request.labels.items()),
    }


def task_request(form: Form) -> TaskRequest:
    """
    Raises:
        Rejected: with a sentence for each field that has to change.
    """
    labels = read_labels(form.get("labels", ""))
    given = {
        "repository": form.get("repository", "").strip(),
        "base_commit": form.get("base_commit", "").strip() or "HEAD",
        "problem_statement": form.get("problem_statement", "").replace("\r\n", "\n").strip(),
        "checks": [{"command": line.strip()} for line in form.get("checks", "").splitlines() if line.strip()],
        "attempts": form.get("attempts", ""),
        "limits": {
            "max_steps": form.get("max_steps", ""),
            "max_tokens": form.get("max_tokens", ""),
            "wall_clock_s": _seconds(form.get("minutes", "")),
        },
        "model": {
            "name": form.get("model", "").strip() or None,
            "thinking": _THINKING.get(form.get("thinking", ""), True),
        },
        "labels": labels,
        **{name: form[name] for name in ("priority", "approvals", "on_limit") if form.get(name)},
    }
    try:
        return TaskRequest.model_validate(given)
    except ValidationError as error:
        found = {_field(part["loc"]): _sentence(part["type"], part["msg"]) for part in error.errors()}
        raise Rejected(found) from error


def read_images(form: Form) -> tuple[Image, ...]:
    """Those that the page put into the form, as data URLs, in fields ``image_0``, ``image_1`` and so on.

    Raises:
        Rejected
    """
    urls = [value for name, value in form.items() if name.startswith("image_")]
    given = [url.removeprefix("data:").partition(";base64,")[::2] for url in urls]
    try:
        shown = [{"media_type": media_type, "data": data} for media_type, data in given]
        return TypeAdapter(Images).validate_python(shown)
    except ValidationError as error:
        raise Rejected({"images": f"{error.errors()[0]['msg']}. Choose them again."}) from error


def read_labels(text: str) -> dict[str, str]:
    """Labels as ``name=value``, or a name alone, separated by commas.

    >>> read_labels("team=core, urgent")
    {'team': 'core', 'urgent': ''}
    """
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    return {name.strip(): value.strip() for name, _, value in parts}


def checked(shape: type[_Shape], given: dict[str, Any], remedy: str) -> _Shape:
    """What was typed in, as one of the shapes that REST takes.

    Raises:
        Problem: 422.
    """
    try:
        return shape.model_validate(given)
    except ValidationError as error:
        detail = "; ".join(str(part["msg"]) for part in error.errors())
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", f"{detail}.", remedy=remedy) from error


def _seconds(minutes: str) -> float | str:
    try:
        return float(minutes) * 60
    except ValueError:
        return minutes


def _field(location: tuple[int | str, ...]) -> str:
    """The name of a field on the page, from where its value is in the request."""
    inner = str(location[1]) if location[0] in ("limits", "model") and len(location) > 1 else str(location[0])
    return {"wall_clock_s": "minutes", "name": "model"}.get(inner, inner)


def _sentence(kind: str, message: str) -> str:
    return "Fill this in." if kind == "string_too_short" else f"{message}."
