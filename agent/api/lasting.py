"""Callers whose connection lasts: each holds a place among the open streams, and one whose key was revoked since, or
whose project was closed, may not stay."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.types import Scope

from agent.api.auth import Caller
from agent.api.context import Services, services, services_of
from agent.api.problems import Problem
from agent.api.streams import Kind
from agent.identity import Principal

_Built = Annotated[Services, Depends(services)]


def lasts(kind: Kind, when: Callable[[Request], bool] = lambda _: True) -> Any:
    """Of a route, ``dependencies=[lasts("chat")]``: its caller holds a place until the answer is over, or is refused.

    Args:
        when: whether the answer to this request lasts.
    """

    async def held(request: Request, principal: Caller, built: _Built) -> AsyncIterator[None]:
        with built.streams.open(principal, kind) if when(request) else nullcontext():
            yield

    return Depends(held)


class Lasting:
    """One connection. Keys alone are looked at again: whoever came with a token that has run out since stays."""

    def __init__(self, scope: Scope) -> None:
        """
        Args:
            scope: as the gate let it in.
        """
        self._authenticate = scope["state"]["authenticate"]
        self._principal: Principal = scope["state"]["principal"]
        self._every_s = services_of(scope["app"]).heartbeat_s
        self._next = time.monotonic() + self._every_s

    async def check(self) -> None:
        """Look again, if it is time.

        Raises:
            Problem: the caller may not be here any more.
        """
        if self._principal.kind != "key" or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every_s
        try:
            await self._authenticate()
        except Problem as problem:
            if problem.status is not HTTPStatus.SERVICE_UNAVAILABLE:
                raise
