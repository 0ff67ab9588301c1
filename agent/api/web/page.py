"""What all pages share: their templates, and mistakes answered in words instead of a problem document."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from agent.api.auth import needs
from agent.api.problems import Problem
from agent.api.web.html import Templates
from agent.errors import InvalidCursor, RequestUnderWay, TaskOver, UnknownTask
from agent.identity import Scope


def page_router(*scopes: Scope) -> APIRouter:
    """A router for pages that take these scopes to see."""
    return APIRouter(route_class=_PageRoute, include_in_schema=False, dependencies=[needs(scope) for scope in scopes])


class _PageRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                return await handle(request)
            except Problem as problem:
                return _problem_page(request, problem)
            except UnknownTask:
                return _problem_page(request, _UNKNOWN)
            except TaskOver:
                return _problem_page(request, _OVER)
            except RequestUnderWay:
                return _problem_page(request, _UNDER_WAY)
            except (InvalidCursor, RequestValidationError):
                return _problem_page(request, _MEANINGLESS)

        return guarded


_UNKNOWN = Problem(HTTPStatus.NOT_FOUND, "", "No task has this id.", remedy="It may be another project's.")
_OVER = Problem(HTTPStatus.CONFLICT, "", "The task is over.", remedy="Nothing can be said to it any more.")
_UNDER_WAY = Problem(HTTPStatus.CONFLICT, "", "The same form is being worked on.", remedy="Look in the list of tasks.")
_MEANINGLESS = Problem(
    HTTPStatus.UNPROCESSABLE_ENTITY, "", "The address means nothing here.", remedy="Go on from here."
)


def _problem_page(request: Request, problem: Problem) -> Response:
    values = {"title": problem.status.phrase, "detail": problem.detail, "remedy": problem.remedy}
    page = _templates(request).page(request, "problem.html", problem.status, **values)
    page.headers.update(problem.headers)
    return page


def _templates(request: Request) -> Templates:
    templates = request.app.state.templates
    assert isinstance(templates, Templates), templates
    return templates


Html = Annotated[Templates, Depends(_templates)]
