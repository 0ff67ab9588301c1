"""How a job of a sandbox ended, as the sandbox itself says it."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Ended(BaseModel):
    """The end of a job. ``code``: exit code, signal, or error number, by ``how``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    how: Literal["exited", "signalled", "timed_out", "oom_killed", "output_limit", "failed", "rejected"]
    code: int = Field(ge=0, le=4095)
    total: int = Field(ge=0)
    run_s: float = Field(ge=0, allow_inf_nan=False)
    detail: str = Field(max_length=4000)


@dataclass(frozen=True, slots=True)
class Result:
    """A job that came to its end."""

    ended: Ended
    output: bytes
