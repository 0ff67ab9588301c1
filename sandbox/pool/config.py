"""Settings of the warm pool."""

from pydantic import BaseModel, ConfigDict, Field


class PoolSettings(BaseModel):
    """How many sandboxes are kept ready, and how fast they are made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_ready: int = Field(64, ge=0, description="Sandboxes kept ready or being made, of all kinds. 0: no pool.")
    max_per_key: int = Field(32, ge=1, description="The same, of one kind (image, resources, network).")
    min_per_key: int = Field(0, ge=0, description="As many of each kind that the queue names, however far back.")
    ahead: int = Field(8, ge=1, description="So many next entries of the queue are always prepared for.")
    start_s: float = Field(5.0, gt=0, description="How long a sandbox takes to start, s; until some were measured.")
    wave: int = Field(1000, ge=1, description="Sandboxes in the making at once.")
    creates_per_s: float = Field(80.0, gt=0, description="Creations a second at first; raised while latency holds.")
    max_creates_per_s: float = Field(
        300.0, gt=0, description="Creations a second at most. On Kubernetes a node starts about 5 a second."
    )
    breaker: float = Field(1.5, ge=1, description="Nothing is made while there are this times as many as wanted.")
    census_s: float = Field(15.0, gt=0, description="How often the machines are asked how many there really are, s.")
    failures: int = Field(3, ge=1, description="After so many failures in a row, a kind is left alone for a while.")
    max_age_s: float = Field(600.0, gt=0, description="A sandbox that nobody wanted for so long is ended, s.")
    longest_lifetime_s: float = Field(
        4 * 3600.0, gt=0, description="Sandboxes that must live longer than this are not taken from the pool, s."
    )
