"""The fields that say whose cache a request goes on from, and when its turn is."""

from typing import Annotated

from pydantic import Field, StringConstraints

from model_server.server.body import Fields
from model_server.server.errors import ApiError

Label = Annotated[str, StringConstraints(min_length=1, max_length=256)]

MAX_PRIORITY = 1000
ROUTING_KEY_HEADER = "X-SMG-Routing-Key"
"""Requests with one value begin alike. Gateways send them to one server by it, and a server to one cache of several."""


class PlacementFields(Fields):
    """Every endpoint that generates has them; none changes what is generated."""

    session_id: Label | None = None
    """The caller's name of a conversation, whose next request goes on from its own cache. Another key's session of
    the same name, or that of another salt, is another session."""
    cache_salt: Label | None = None
    """Sets apart whose prefixes may be shared, among the requests of the same key."""
    priority: int = Field(0, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    """Higher ones go first."""

    def check_session(self, num_choices: int) -> None:
        """Raises ApiError where several answers would continue one session."""
        if self.session_id is not None and num_choices > 1:
            raise ApiError("A session has one answer at a time. Ask for one, or leave it out.", param="session_id")
