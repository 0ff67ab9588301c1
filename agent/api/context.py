"""What the routes share: the collaborators ``create_app`` was given."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from agent.api.watching import Watching
from agent.store.base import Store

ResolveCommit = Callable[[Path, str], Awaitable[str]]
"""Checks that a repository and a commit in it can be used; returns the commit's full id.

Raises ``RepositoryError``, whose message says what to do.
"""


@dataclass(frozen=True, slots=True)
class Context:
    store: Store
    resolve_commit: ResolveCommit
    heartbeat_s: float
    """Longest silence of an event stream, s."""
    watching: Watching


def _context(request: Request) -> Context:
    context = request.app.state.context
    assert isinstance(context, Context), context
    return context


Shared = Annotated[Context, Depends(_context)]
