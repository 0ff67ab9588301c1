"""Who acts: the subject of a call, the project it acts in, and what it may do there.

A project is a tenant. Everything a user makes belongs to one, and nobody sees another's.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

Scope = Literal["tasks:read", "reasoning:read", "tasks:write", "approvals:write", "projects:admin", "service:admin"]
"""One right. ``reasoning:read``: what the model thought, in whatever one may read. ``projects:admin``: keys, secrets
and audit log of one's own project. ``service:admin``: make and close projects, and act in any of them."""

SCOPES: frozenset[Scope] = frozenset(get_args(Scope))

ROLES: dict[str, frozenset[Scope]] = {
    "viewer": frozenset({"tasks:read"}),
    "member": frozenset({"tasks:read", "reasoning:read", "tasks:write", "approvals:write"}),
    "admin": SCOPES - {"service:admin"},
    "operator": SCOPES,
}
"""Names for the usual sets of scopes."""

Kind = Literal["key", "oidc", "workload", "local"]
"""How a subject proved itself: an API key; a person's token of an identity provider; a token of a machine, such as a
job of GitHub Actions or a service account of Kubernetes; or being on this machine, where nothing more is asked."""

DEFAULT_PROJECT = "default"
"""The project that is always there."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a call, and in which project."""

    project_id: str
    subject: str
    """Unique in the service, and readable: ``key_0123456789abcdef``, ``company:248289761001``, ``local``."""
    kind: Kind
    scopes: frozenset[Scope]
    """What it may do in ``project_id``."""

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes


LOCAL = Principal(DEFAULT_PROJECT, "local", "local", SCOPES)
"""Whoever calls a service that listens on loopback only and has no key and no issuer."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ApiKey(_Record):
    """What is known of a key: everything but the key."""

    id: str
    project_id: str
    name: str
    scopes: tuple[Scope, ...]
    created_by: str
    created_at: datetime
    expires_at: datetime | None = None
    """None: never."""
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    """To ten minutes; None: never."""


class SecretNote(_Record):
    """What is shown of a secret: everything but its value."""

    name: str
    updated_by: str
    updated_at: datetime


class Deed(_Record):
    """Who did what."""

    project_id: str
    subject: str
    kind: str
    action: str
    """Method and route, such as ``POST /v1/tasks/{task_id}/cancel``."""
    target: str
    """Path of what was made or changed."""
    status: int
    """HTTP status of the answer; 403 is an attempt that was refused."""
    request_id: str


class AuditEntry(Deed):
    """Who did what, when."""

    at: datetime


class AuditPage(_Record):
    entries: tuple[AuditEntry, ...]
    """Newest first."""
    next_cursor: str | None
    """Give it back for the next page; None at the end."""
