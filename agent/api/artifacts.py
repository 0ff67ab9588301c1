"""What the runs of a task left beside its events, by name, whole or in part (RFC 9110, section 14)."""

import base64
import re
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Path, Response
from fastapi.responses import StreamingResponse

from agent.api.auth import lacks, needs
from agent.api.context import Context, Shared
from agent.api.problems import Problem
from agent.api.schemas import ArtifactList
from agent.errors import UnknownArtifact
from agent.store.artifacts import Artifact, Artifacts, holds_tokens

router = APIRouter(prefix="/v1/tasks", tags=["artifacts"])

_BYTES = {"content": {kind: {"schema": {"type": "string"}} for kind in ("text/plain", "application/octet-stream")}}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: _BYTES,
    206: _BYTES | {"description": "The part that Range asked for; Content-Range says which it is."},
    304: {"description": "If-None-Match names the bytes there are."},
}
_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_MAX_DIGITS = 18


@router.get("/{task_id}/artifacts", dependencies=[needs("tasks:read")])
async def list_artifacts(task_id: str, shared: Shared) -> ArtifactList:
    """Every artifact of the task, by name, which begins with the number of the attempt."""
    await shared.tasks.get(task_id)
    return ArtifactList(artifacts=await artifacts_of(shared, task_id))


class Wanted:
    """What of an artifact is asked for."""

    def __init__(
        self,
        range: Annotated[  # noqa: A002 - the header's name
            str | None, Header(description="One range of bytes; several are answered with all.")
        ] = None,
        if_range: Annotated[str | None, Header(description="Honour Range only if this is still the ETag.")] = None,
        if_none_match: Annotated[str | None, Header(description="Send nothing if this is still the ETag.")] = None,
    ) -> None:
        self._range = range
        self._if_range = if_range
        self._if_none_match = if_none_match

    def known(self, etag: str) -> bool:
        """The caller has these bytes already."""
        return self._if_none_match is not None and etag in self._if_none_match

    def part(self, etag: str, size: int) -> tuple[int, int]:
        """From where to where.

        Raises:
            Problem: 416, there is nothing at that place.
        """
        return _part(self._range if self._if_range in (None, etag) else None, size)


@router.get(
    "/{task_id}/artifacts/{artifact:path}",
    dependencies=[needs("tasks:read")],
    response_class=Response,
    responses=ANSWERS,
)
async def read_artifact(
    task_id: str,
    artifact: Annotated[str, Path(description="With its slashes, such as 1/patch.diff.")],
    shared: Shared,
    wanted: Annotated[Wanted, Depends()],
) -> Response:
    """The bytes of an artifact."""
    await check_readable(shared, task_id, artifact)
    return await send_artifact(shared.store.artifacts, shared.principal.project_id, task_id, artifact, wanted)


async def check_readable(shared: Context, task_id: str, artifact: str) -> None:
    """
    Raises:
        UnknownTask: the task is none of the caller's.
        Problem: 403, it takes another scope.
    """
    await shared.tasks.get(task_id)
    if holds_tokens(artifact) and not shared.tasks.reasoning:
        raise lacks("reasoning:read")


async def send_artifact(
    kept: Artifacts | None, project_id: str, task_id: str, artifact: str, wanted: Wanted
) -> Response:
    """
    Raises:
        UnknownArtifact: there is none of this name.
    """
    if kept is None:
        raise UnknownArtifact(f"task {task_id} has no artifact {artifact[:200]!r}")
    found = await kept.get(project_id, task_id, artifact)
    headers = _headers(found)
    if wanted.known(headers["ETag"]):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    start, stop = part = wanted.part(headers["ETag"], found.size)
    status = HTTPStatus.OK
    if part != (0, found.size):
        status = HTTPStatus.PARTIAL_CONTENT
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{found.size}"
    headers["Content-Length"] = str(stop - start)
    return StreamingResponse(kept.read(project_id, task_id, found, start, stop), status, headers, found.media_type)


async def artifacts_of(shared: Context, task_id: str) -> tuple[Artifact, ...]:
    """Of a task that is the caller's."""
    kept = shared.store.artifacts
    return await kept.of_task(shared.principal.project_id, task_id) if kept else ()


def _headers(artifact: Artifact) -> dict[str, str]:
    digest = base64.b64encode(bytes.fromhex(artifact.sha256)).decode()
    # Most are written by hostile code: a browser is to save them, and to take them for nothing else. Images come from
    # people, and were looked at when they came.
    shown = "inline" if artifact.media_type.startswith("image/") else "attachment"
    return {
        "ETag": f'"{artifact.sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",  # RFC 9530
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"{shown}; filename*=UTF-8''{quote(artifact.name.rpartition('/')[2])}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }


def _part(wanted: str | None, size: int) -> tuple[int, int]:
    """From where to where a Range header reaches; what is no single range of bytes is passed over.

    Raises:
        Problem: 416, there is nothing at that place.
    """
    match = _RANGE.fullmatch(wanted.strip()) if wanted else None
    if match is None or match.group(1) == match.group(2) == "":
        return 0, size
    first, last = (int(text[:_MAX_DIGITS]) if text else None for text in match.groups())
    if first is None:  # The last so many.
        first, last = max(0, size - (last or 0)), None
    stop = size if last is None else min(size, last + 1)
    if first >= stop:
        raise Problem(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            "range_not_satisfiable",
            f"The artifact has {size} bytes; {wanted} is none of them.",
            remedy="Ask for bytes that are there, or leave Range out.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return first, stop
