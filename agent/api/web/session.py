"""Signing in and out. The browser keeps the key itself, where no script reads it and no other site has it sent."""

from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import Depends, Query, Request, Response
from fastapi.responses import RedirectResponse
from starlette.requests import HTTPConnection

from agent.api.auth import SESSION_COOKIE
from agent.api.context import Services, services
from agent.api.gate import SIGN_IN_PATH, TO_PROVIDER_PATH
from agent.api.problems import Problem
from agent.api.web.form import read_form
from agent.api.web.html import Templates
from agent.api.web.page import Html, page_router

router = page_router()


@router.get(SIGN_IN_PATH)
async def show_sign_in(
    request: Request,
    html: Html,
    built: Annotated[Services, Depends(services)],
    next: Annotated[str, Query()] = "/tasks",  # noqa: A002 - the address's name for it
) -> Response:
    """The form; whoever is signed in already is sent on."""
    try:
        await built.authenticator.authenticate(request.cookies.get(SESSION_COOKIE))
    except Problem:
        return _form(request, html, built, own(next))
    return RedirectResponse(own(next), HTTPStatus.SEE_OTHER)


@router.post(SIGN_IN_PATH)
async def sign_in(request: Request, html: Html, built: Annotated[Services, Depends(services)]) -> Response:
    form = await read_form(request)
    key, then = form.get("key", "").strip(), own(form.get("next", ""))
    try:
        await built.authenticator.authenticate(key)
    except Problem as problem:
        return _form(request, html, built, then, problem)
    answer = RedirectResponse(then, HTTPStatus.SEE_OTHER)
    keep(answer, request, key)
    return answer


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    await read_form(request)
    answer = RedirectResponse(SIGN_IN_PATH, HTTPStatus.SEE_OTHER)
    answer.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
    return answer


def keep(answer: Response, request: Request, credential: str) -> None:
    """Have the browser show the credential from now on."""
    answer.set_cookie(SESSION_COOKIE, credential, httponly=True, samesite="strict", secure=scheme(request) == "https")


def own(address: str) -> str:
    """The address where it is a page of this service, else the list of tasks."""
    is_own = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return address if is_own else "/tasks"


def scheme(request: HTTPConnection) -> Literal["http", "https"]:
    """Also behind a proxy that ends the encryption; whoever makes that up only loses the cookie."""
    shown = request.url.scheme, request.headers.get("x-forwarded-proto")
    return "https" if shown[0] in ("https", "wss") or shown[1] == "https" else "http"


def address(request: HTTPConnection) -> str:
    """This service's, as the caller knows it, without a slash at its end."""
    return f"{scheme(request)}://{request.url.netloc}"


def _form(request: Request, html: Templates, built: Services, then: str, problem: Problem | None = None) -> Response:
    login = built.login and built.login.login
    shown = {
        "next": then,
        "error": problem.detail if problem else "",
        "provider": built.login.name if built.login and login and login.page else "",
        "provider_path": TO_PROVIDER_PATH,
    }
    return html.page(request, "sign_in.html", problem.status if problem else HTTPStatus.OK, **shown)
