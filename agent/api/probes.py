"""What those ask who run the service: does it live, can it serve, how is it doing."""

from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict

from agent.api.context import Services, services
from agent.api.problems import Problem
from agent.api.service import seconds_since
from agent.errors import StoreUnavailable

router = APIRouter(tags=["probes"])

Built = Annotated[Services, Depends(services)]


class Alive(BaseModel):
    model_config = ConfigDict(frozen=True)

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """Every part that was looked at works."""

    model_config = ConfigDict(frozen=True)

    status: Literal["ready"] = "ready"
    checks: dict[str, Literal["ok"]]


@router.get("/livez")
async def live() -> Alive:
    """The process answers."""
    return Alive()


@router.get("/readyz")
async def ready(built: Built) -> Ready:
    """The store answers too; 503 says what does not."""
    try:
        await built.store.projects()
    except StoreUnavailable as error:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "not_ready",
            f"store: {error}",
            remedy="Look at the database and its disk; the service goes on by itself once they are back.",
            headers={"Retry-After": "5"},
        ) from error
    return Ready(checks={"store": "ok"})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(built: Built) -> Response:
    """Numbers for Prometheus, over all projects."""
    text = built.metrics.text(
        await built.accounts.num_tasks(),
        oldest_queued_s=seconds_since(await built.accounts.oldest_queued()),
        open_streams=built.streams.num_open,
        num_pending_deliveries=await built.webhooks.num_pending(),
    )
    return Response(text, media_type=CONTENT_TYPE_LATEST)
