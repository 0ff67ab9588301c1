"""Settings of a worker process. Read once, at the start."""

import os
import platform
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from agent.config import ModelSettings
from agent.store.base import DELIVERIES_KEPT_FOR
from agent.store.claims import LONGEST_LEASE
from sandbox.config import SandboxSettings
from sandbox.types import Resources


def _worker_id() -> str:
    return f"{platform.node()}:{os.getpid()}"


class WorkerSettings(BaseModel):
    """Where a worker finds its tasks, files, machines and model."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    store: str = Field(description="Address of the store, such as sqlite:////var/lib/mimo/store.db.")
    artifacts: str | None = Field(
        None, description="Where what runs leave is kept: file:///FOLDER or s3://BUCKET/PREFIX; None keeps nothing."
    )
    data: Path = Field(description="Folder for the git directories of tasks; shared by all workers of a store.")
    model: ModelSettings = ModelSettings()
    waits_for_model: bool = Field(
        False,
        description="Runs whose model is away, or for whose sandbox there is no room, wait; without, they end failed.",
    )
    probe_every_s: float | None = Field(
        None,
        gt=0,
        description="How often it is proved that the endpoint keeps the model's reasoning, s; nothing is claimed while "
        "it does not. None never asks.",
    )
    monitor: str | None = Field(
        None,
        pattern=r"^\S+:\d{1,5}$",
        description="HOST:PORT for the probes /livez and /readyz and for /metrics; None offers none.",
    )
    registry: str | None = Field(
        None,
        description="Address of the list of sandboxes, such as sqlite:////var/lib/mimo/sandboxes.db, by which a run "
        "finds its own when its worker is gone; None: sandboxes end with their worker.",
    )
    backend: str = Field("local", description="Name of the sandbox backend.")
    sandbox: SandboxSettings = SandboxSettings()
    tries_sandboxes: bool = Field(
        False, description="Before any run is taken it is tried whether sandboxes are held as their settings say."
    )
    resources: Resources = Field(Resources(), description="Bounds of every sandbox.")
    worker_id: str = Field(default_factory=_worker_id, min_length=1, description="Names this worker in the log.")
    concurrency: int = Field(1, ge=1, le=256, description="Runs at once.")
    lease_ttl_s: float = Field(
        15.0,
        gt=0,
        le=LONGEST_LEASE.total_seconds(),
        description="A run whose worker is silent for so long goes to another one, s. Renewed at a third.",
    )
    tidy_every_s: float = Field(
        600.0, gt=0, description="How often what is kept no longer is deleted, s: old tasks, files of runs that ended."
    )
    deliveries_kept_days: int = Field(
        DELIVERIES_KEPT_FOR.days,
        ge=1,
        le=3650,
        description="Messages of webhooks are deleted after so many days, once they are sent or given up.",
    )
