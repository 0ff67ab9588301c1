"""What the operator decides about the server."""

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class ServerSettings(BaseModel):
    """Read once, at start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_name: str
    """The name callers send as ``model``."""
    api_key: SecretStr | None = None
    """Bearer key for everything under ``/v1``; None asks for none, which only a loopback address may do."""
    max_body_bytes: int = Field(32 * 1024 * 1024, gt=0)
    """Largest request body. A conversation that fills the real model's context is about a megabyte."""
    health_fresh_s: float = Field(10.0, ge=0)
    """A token generated this recently proves health; otherwise ``/health`` generates one, s."""
    health_timeout_s: float = Field(30.0, gt=0)
    """How long ``/health`` waits for that token, s."""
