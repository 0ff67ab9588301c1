"""Every error answer of the API: ``application/problem+json`` (RFC 9457), whatever went wrong.

Beside the standard members a problem has ``code`` (a stable word to branch on), ``remedy`` (what the caller can do),
``request_id`` (also in the ``X-Request-Id`` header and the service's log) and, for rejected input, ``errors`` with a
JSON pointer into the body.
"""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from agent.errors import (
    AgentError,
    CannotRewind,
    IdempotencyConflict,
    InvalidCursor,
    RequestUnderWay,
    StoreDamaged,
    StoreTooNew,
    StoreUnavailable,
    TaskNotOver,
    TaskOver,
    UnknownArtifact,
    UnknownProject,
    UnknownRun,
    UnknownTask,
)

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

CHAT_PATHS = "/v1/chat"
"""Of those who ask as they would ask OpenAI's API."""


class FieldError(BaseModel):
    """One rejected value."""

    model_config = ConfigDict(frozen=True)

    pointer: str | None = Field(None, description="JSON pointer into the request body, such as #/limits/max_steps.")
    parameter: str | None = Field(None, description="Name of the query parameter or header, where it was not the body.")
    detail: str


class ChatError(BaseModel):
    """The same where chat programs look for it."""

    model_config = ConfigDict(frozen=True)

    message: str
    type: str
    code: str


class ProblemDocument(BaseModel):
    """RFC 9457, with this service's extra members."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(description="Names the kind of problem; one to one with code.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="Path of the request.")
    code: str = Field(description="Stable word to branch on.")
    remedy: str = Field(description="What the caller can do.")
    request_id: str
    errors: tuple[FieldError, ...] = ()
    error: ChatError | None = Field(None, description="Of /v1/chat alone.")


class Problem(Exception):
    """Raised by a route; becomes the answer."""

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        detail: str,
        *,
        remedy: str,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.remedy = remedy
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


def problem_response(problem: Problem, scope: Scope) -> JSONResponse:
    """The answer a problem becomes. Takes the ASGI scope, so that middleware can answer too."""
    document = ProblemDocument(
        type=f"urn:mimo-coder:problem:{problem.code.replace('_', '-')}",
        title=_TITLES.get(problem.code, problem.status.phrase),
        status=problem.status,
        detail=problem.detail,
        instance=scope["path"],
        code=problem.code,
        remedy=problem.remedy,
        request_id=request_id(scope),
        errors=problem.errors,
        error=_for_chats(problem) if scope["path"].startswith(CHAT_PATHS) else None,
    )
    body = document.model_dump(exclude_none=True)
    if not problem.errors:
        del body["errors"]
    return JSONResponse(body, status_code=problem.status, media_type=MEDIA_TYPE, headers=problem.headers)


def _for_chats(problem: Problem) -> ChatError:
    kind = "invalid_request_error" if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    return ChatError(message=f"{problem.detail.rstrip('.')}. {problem.remedy}", type=kind, code=problem.code)


def request_id(scope: Scope) -> str:
    """The id the gate gave this request."""
    return str(scope.get("state", {}).get("request_id", "req_unknown"))


def invalid_input(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """Pydantic's findings about a body as one problem."""
    if any(error["type"] == "json_invalid" for error in errors):
        return Problem(
            HTTPStatus.BAD_REQUEST,
            "invalid_json",
            f"The request body is not valid JSON: {errors[0]['msg'].removeprefix('Invalid JSON: ')}",
            remedy="Send one JSON object in UTF-8.",
        )
    found = [FieldError(pointer=_pointer(error["loc"]), detail=_explain(error)) for error in errors[:_MAX_ERRORS]]
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid_request",
        "; ".join(f"{error.pointer}: {error.detail}" for error in found[:3]),
        remedy="Correct the fields listed in errors; /openapi.json describes every field.",
        errors=found,
    )


def invalid_parameter(name: str, detail: str) -> Problem:
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid_request",
        f"{name}: {detail}",
        remedy="Correct the parameter; /openapi.json describes it.",
        errors=[FieldError(parameter=name, detail=detail)],
    )


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Make every error of ``app`` a problem document; ``routes`` are asked which methods a path has."""

    async def on_http_exception(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException), error
        return problem_response(_http_problem(request, error, routes), request.scope)

    app.add_exception_handler(Problem, _on_problem)
    for kind in _AGENT_ERRORS:
        app.add_exception_handler(kind, _on_agent_error)
    app.add_exception_handler(InvalidCursor, _on_invalid_cursor)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(Exception, _on_bug)


_MAX_ERRORS = 20
"""Most rejected values one answer lists."""

_TITLES = {
    "invalid_json": "Not valid JSON",
    "invalid_request": "Invalid request",
    "invalid_repository": "Repository cannot be used",
    "unknown_task": "No such task",
    "not_found": "No such resource",
    "task_already_ended": "Task already ended",
    "body_too_large": "Request body too large",
    "unauthenticated": "API key missing or wrong",
    "foreign_host": "Foreign host",
    "foreign_origin": "Foreign origin",
}

_REMEDIES = {
    HTTPStatus.NOT_FOUND: "Check the path; /openapi.json lists every resource.",
    HTTPStatus.METHOD_NOT_ALLOWED: "Use one of the methods in the Allow header.",
}


async def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem), error
    return problem_response(error, request.scope)


async def _on_agent_error(request: Request, error: Exception) -> JSONResponse:
    """What the parts below raise for callers to know, each as its own problem."""
    assert isinstance(error, AgentError), error
    status, code, remedy = _AGENT_ERRORS[type(error)]
    headers = {"Retry-After": "2"} if type(error) in _PASSING else {}
    return problem_response(Problem(status, code, str(error), remedy=remedy, headers=headers), request.scope)


_AGENT_ERRORS: dict[type[AgentError], tuple[HTTPStatus, str, str]] = {
    UnknownTask: (HTTPStatus.NOT_FOUND, "unknown_task", "GET /v1/tasks lists the tasks of your project."),
    UnknownProject: (HTTPStatus.NOT_FOUND, "unknown_project", "GET /v1/me says in which project you act."),
    UnknownRun: (HTTPStatus.NOT_FOUND, "unknown_run", "GET /v1/tasks/{id}/runs lists its runs."),
    UnknownArtifact: (HTTPStatus.NOT_FOUND, "unknown_artifact", "GET /v1/tasks/{id}/artifacts lists what there is."),
    TaskNotOver: (
        HTTPStatus.CONFLICT,
        "task_not_ended",
        "Cancel the task, or wait for the event task.finished (GET /v1/tasks/{id}/events), then ask again.",
    ),
    TaskOver: (HTTPStatus.CONFLICT, "task_already_ended", "GET /v1/tasks/{id} shows its result; submit a new task."),
    CannotRewind: (
        HTTPStatus.CONFLICT,
        "cannot_rewind",
        "GET /v1/tasks/{id}/checkpoints lists the steps; POST .../pause, or .../fork where the task has ended.",
    ),
    IdempotencyConflict: (
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "idempotency_key_reused",
        "Take a new Idempotency-Key for every new request; send the same body to get the first answer again.",
    ),
    RequestUnderWay: (
        HTTPStatus.CONFLICT,
        "request_under_way",
        "Wait as long as the Retry-After header says, s, and send the same request again.",
    ),
    StoreDamaged: (
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "store_damaged",
        "DELETE /v1/tasks/{id} deletes an ended task that cannot be read; operators find it in the log.",
    ),
    StoreUnavailable: (HTTPStatus.SERVICE_UNAVAILABLE, "store_unavailable", "Try again in a moment."),
    StoreTooNew: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "store_too_new",
        "Try again once all of the service is of the newer release.",
    ),
}

_PASSING = (RequestUnderWay, StoreTooNew, StoreUnavailable)
"""Waiting helps."""


async def _on_invalid_cursor(request: Request, _: Exception) -> JSONResponse:
    detail = "not a cursor that this service gave here; leave it out for the first page"
    return problem_response(invalid_parameter("cursor", detail), request.scope)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    """Query parameters, paths and headers; bodies are validated by the routes, strictly."""
    assert isinstance(error, RequestValidationError), error
    found = [
        FieldError(parameter=".".join(map(str, part["loc"][1:])), detail=_explain(part)) for part in error.errors()
    ]
    problem = Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid_request",
        "; ".join(f"{part.parameter}: {part.detail}" for part in found),
        remedy="Correct the parameters listed in errors; /openapi.json describes every parameter.",
        errors=found,
    )
    return problem_response(problem, request.scope)


def _http_problem(request: Request, error: HTTPException, routes: Sequence[BaseRoute]) -> Problem:
    """What the framework itself refuses: unknown paths and methods."""
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _methods(request, routes) or headers.get("Allow", "GET")
    return Problem(
        status,
        status.name.lower(),
        f"{request.method} {request.url.path}: {status.description or status.phrase}.",
        remedy=_REMEDIES.get(status, "See /openapi.json."),
        headers=headers,
    )


def _methods(request: Request, routes: Sequence[BaseRoute]) -> str:
    """Every method of the path: the framework names those of its first route only."""
    matching = (route for route in routes if isinstance(route, Route) and route.matches(request.scope)[0] != Match.NONE)
    return ", ".join(sorted({method for route in matching for method in route.methods or ()}))


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    """The server re-raises the error after this answer, so its traceback is logged."""
    problem = Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal_error",
        "The service failed while it handled this request.",
        remedy="Try again; if it stays, look for the request id in the service's log.",
    )
    logger.error("request failed", extra={"action": "request_failed", "request_id": request_id(request.scope)})
    return problem_response(problem, request.scope)


def _pointer(location: Sequence[str | int]) -> str:
    """A location as a JSON pointer in fragment form (RFC 6901, section 6)."""
    return "#" + "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def _explain(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "Unknown field"
    if error["type"] == "missing":
        return "Required field is missing"
    return str(error["msg"])
