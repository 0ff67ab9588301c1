"""The names under which chat programs know profiles and repositories."""

from collections.abc import Iterable
from typing import get_args

from agent.api.body import rejected
from agent.api.schemas import ChatModel
from agent.types import ProfileName

_PREFIX = "mimo-"
PROFILES: tuple[ProfileName, ...] = get_args(ProfileName)


def chat_models(repositories: Iterable[str]) -> tuple[ChatModel, ...]:
    """Every profile by itself, and with each repository of the project."""
    names = ("", *(f"/{name}" for name in repositories))
    return tuple(ChatModel(id=f"{_PREFIX}{profile}{name}") for name in names for profile in PROFILES)


def read_model(name: str) -> tuple[ProfileName, str | None]:
    """The profile, and the repository where the name has one.

    Raises:
        Problem: there is no such model.
    """
    wanted, _, repository = name.removeprefix(_PREFIX).partition("/")
    for profile in PROFILES:
        if name.startswith(_PREFIX) and wanted == profile:
            return profile, repository or None
    known = ", ".join(_PREFIX + profile for profile in PROFILES)
    raise rejected(
        "/model",
        f"There is no model {name[:100]!r}",
        f"Take one of {known}, with /REPOSITORY behind it; GET /v1/models lists them.",
        code="unknown_model",
    )
