"""Callers whose connection lasts: a key that was revoked since, or whose project was closed, opens nothing any more."""

import time
from http import HTTPStatus

from starlette.types import Scope

from agent.api.context import services_of
from agent.api.problems import Problem
from agent.identity import Principal


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
