"""Versions of what users can change: ``ETag`` and ``If-Match`` (RFC 9110, sections 8.8.3 and 13.1.1)."""

import hashlib
import json
from collections.abc import Set
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Header
from pydantic import BaseModel

from agent.api.problems import Problem

IfMatch = Annotated[str | None, Header(description="Change it only if this is still its ETag.")]

_ETAG = {"ETag": {"description": "Version of what PATCH changes; send it as If-Match.", "schema": {"type": "string"}}}
WITH_ETAG: dict[int | str, dict[str, Any]] = {200: {"headers": _ETAG}}
"""``responses`` of a route whose answer has one."""


def etag(shown: BaseModel, changeable: Set[str]) -> str:
    """Names the version of what a user can change; what others change is not part of it."""
    content = json.dumps(shown.model_dump(mode="json", include=set(changeable)), sort_keys=True)
    return f'"{hashlib.sha256(content.encode()).hexdigest()[:16]}"'


def check_unchanged(what: str, code: str, now: str, if_match: str | None) -> None:
    """
    Args:
        what: of which the problem speaks, such as ``Task 1``.
        now: its ETag.

    Raises:
        Problem: 412, it is not what the caller saw.
    """
    if if_match is None or if_match == "*" or now in {tag.strip() for tag in if_match.split(",")}:
        return
    raise Problem(
        HTTPStatus.PRECONDITION_FAILED,
        code,
        f"{what} was changed since it had the ETag {if_match[:100]}.",
        remedy="GET it again, decide anew, and send its present ETag.",
    )
