"""Settings of executors. Every limit is for one executor."""

from pydantic import BaseModel, ConfigDict, Field

from sandbox.types import Resources, SandboxSpec


class RateLimit(BaseModel):
    """So many calls on average, so many at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_s: float = Field(gt=0, description="Calls a second on average.")
    burst: int = Field(1, ge=1, description="Calls at once, after a pause.")


class ResourceClass(BaseModel):
    """Sandboxes up to a size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Names the class in logs.")
    up_to: Resources = Field(description="A sandbox is of the first class that it fits in.")
    max_sandboxes: int = Field(ge=0, description="Alive at once.")


class ToolboxSettings(BaseModel):
    """How much one executor does at once, and for whom."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_sandboxes: int = Field(500, ge=1, description="Sandboxes alive at once.")
    max_per_tenant: int = Field(500, ge=1, description="The same, of one tenant.")
    classes: tuple[ResourceClass, ...] = Field(
        (), description="Bounds by size, smallest first. Sandboxes that fit in none are refused; empty: no such bounds."
    )
    short_slots: int = Field(256, ge=1, description="Short calls at once.")
    long_slots: int = Field(256, ge=1, description="Calls that begin as long ones, at once.")
    short_s: float = Field(2.0, gt=0, description="A call that runs for longer makes room for other short ones, s.")
    long_from_s: float = Field(
        900.0, gt=0, description="A command allowed to take this long is a long one from its beginning, s."
    )
    rates: dict[str, RateLimit] = Field(
        {}, description="By tool (exec, read, write, ...): how many calls a tenant may make. Not named: no limit."
    )
    patience_s: float = Field(600.0, gt=0, description="A call that has waited for so long is dropped, s.")
    room_patience_s: float | None = Field(
        None, gt=0, description="The same for a sandbox, s. Empty: it waits until there is room."
    )
    attempts: int = Field(4, ge=1, description="How often something of which nothing ran is tried.")
    hedge_floor_s: float = Field(0.05, gt=0, description="A read is never asked for a second time before this, s.")

    def class_of(self, spec: SandboxSpec) -> ResourceClass | None:
        """The first class that ``spec`` fits in; None where there is none."""
        wanted = spec.resources.model_dump()
        for each in self.classes:
            if all(wanted[name] <= bound for name, bound in each.up_to.model_dump().items()):
                return each
        return None


class RaySettings(BaseModel):
    """Executors in the actors of a Ray cluster, which all workers share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str = Field(
        pattern=r"^(ray://[^\s/]+:[0-9]{1,5}|[^\s/]+:[0-9]{1,5}|auto)$",
        description="Of the cluster: ray://HOST:10001 from elsewhere, HOST:6379 or `auto` from one of its machines.",
    )
    executors: int = Field(4, ge=1, le=1000, description="How many; the first worker that comes to the cluster says.")
