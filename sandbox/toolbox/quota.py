"""How many sandboxes there may be at once: of all, of one tenant, of one size."""

from collections import Counter
from dataclasses import dataclass, field

from sandbox.toolbox.config import ToolboxSettings


@dataclass(frozen=True, slots=True)
class Place:
    """A sandbox, as far as bounds are concerned."""

    tenant: str
    resource_class: str | None


@dataclass(slots=True)
class Quota:
    """The places that are taken."""

    settings: ToolboxSettings
    _tenants: Counter[str] = field(default_factory=Counter)
    _classes: Counter[str | None] = field(default_factory=Counter)

    @property
    def full(self) -> bool:
        return self._tenants.total() >= self.settings.max_sandboxes

    def fits(self, place: Place) -> bool:
        bounds = {each.name: each.max_sandboxes for each in self.settings.classes}
        return (
            not self.full
            and self._tenants[place.tenant] < self.settings.max_per_tenant
            and (place.resource_class is None or self._classes[place.resource_class] < bounds[place.resource_class])
        )

    def take(self, place: Place) -> None:
        self._tenants[place.tenant] += 1
        self._classes[place.resource_class] += 1

    def give_back(self, place: Place) -> None:
        self._tenants[place.tenant] -= 1
        self._classes[place.resource_class] -= 1
