"""What was stored, read by a program that may be older than who wrote it."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from agent.errors import StoreDamaged, StoreTooNew

_Record = TypeVar("_Record", bound=BaseModel)

_UNKNOWN = frozenset({"extra_forbidden", "enum", "literal_error"})
"""Faults of what was stored as it should be, by who knows more names."""


def stored(record: type[_Record], what: str, content: Mapping[str, Any]) -> _Record:
    """A record as it was stored.

    Args:
        what: it is, such as ``task 1``.

    Raises:
        StoreDamaged: no release wrote it so.
        StoreTooNew: it has what this release does not know.
    """
    try:
        return record.model_validate(content)
    except ValidationError as error:
        unknown = [".".join(map(str, each["loc"])) for each in error.errors() if each["type"] in _UNKNOWN]
        if len(unknown) < error.error_count():
            raise StoreDamaged(f"{what} is damaged: {_first_fault(error)}") from error
        raise StoreTooNew(
            f"{what} has {', '.join(unknown)}, which this release does not know; a newer one wrote it"
        ) from error


def _first_fault(error: ValidationError) -> str:
    """Where and what it is; not what stands there, which may be anybody's."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return ": ".join(filter(None, (".".join(map(str, fault["loc"])), fault["msg"])))
