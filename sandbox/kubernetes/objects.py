"""What every object of a cluster has in common, as the API server sends it. Whatever we do not read is left out."""

from abc import ABC, abstractmethod
from datetime import datetime
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from sandbox.kubernetes.state import PodState


class Part(BaseModel):
    """Some part of an object."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel)


class Condition(Part):
    """One thing that is said of an object, and whether it is so (``meta/v1 Condition``)."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class _Metadata(Part):
    name: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Object(Part):
    """Whatever has a name. Of a bookmark, only the version counts."""

    metadata: _Metadata = _Metadata()

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def created_at(self) -> float:
        """Seconds since 1970."""
        created = self.metadata.creation_timestamp
        return created.timestamp() if created else 0.0

    @property
    def ending(self) -> bool:
        """Its end was asked for."""
        return self.metadata.deletion_timestamp is not None


class Record(Object, ABC):
    """An object that stands for one sandbox."""

    @abstractmethod
    def state(self) -> PodState:
        """What it says of its sandbox."""


AnyObject = TypeVar("AnyObject", bound=Object)
AnyRecord = TypeVar("AnyRecord", bound=Record)


class _Page(Part):
    resource_version: str = ""
    continue_: str = Field("", alias="continue")


class Listed(Part, Generic[AnyObject]):
    """One page of a list."""

    metadata: _Page = _Page()
    items: tuple[AnyObject, ...] = ()


class Change(Part, Generic[AnyObject]):
    """One line of a watch."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: AnyObject


class WatchError(Part):
    """The last line of a watch that cannot go on, mostly because its version is too old."""

    type: Literal["ERROR"]
