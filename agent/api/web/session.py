"""Signing in and out. The browser keeps the key itself, where no script reads it and no other site has it sent."""

from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Query, Request, Response
from fastapi.responses import RedirectResponse

from agent.api.auth import SESSION_COOKIE
from agent.api.context import Services, services
from agent.api.gate import SIGN_IN_PATH
from agent.api.problems import Problem
from agent.api.web.form import read_form
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
        return html.page(request, "sign_in.html", next=_own(next), error="")
    return RedirectResponse(_own(next), HTTPStatus.SEE_OTHER)


@router.post(SIGN_IN_PATH)
async def sign_in(request: Request, html: Html, built: Annotated[Services, Depends(services)]) -> Response:
    form = await read_form(request)
    key, then = form.get("key", "").strip(), _own(form.get("next", ""))
    try:
        await built.authenticator.authenticate(key)
    except Problem as problem:
        return html.page(request, "sign_in.html", problem.status, next=then, error=problem.detail)
    answer = RedirectResponse(then, HTTPStatus.SEE_OTHER)
    answer.set_cookie(SESSION_COOKIE, key, httponly=True, samesite="strict", secure=_is_encrypted(request))
    return answer


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    await read_form(request)
    answer = RedirectResponse(SIGN_IN_PATH, HTTPStatus.SEE_OTHER)
    answer.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
    return answer


def _own(address: str) -> str:
    """The address where it is a page of this service, else the list of tasks."""
    own = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return address if own else "/tasks"


def _is_encrypted(request: Request) -> bool:
    """Also behind a proxy that ends the encryption; whoever makes that up only loses the cookie."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
