"""Which images a model is shown, told by how their bytes begin."""

import re
from collections.abc import Mapping

from agent.events import MediaType

_BEGINNINGS: Mapping[MediaType, re.Pattern[bytes]] = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}


def media_type_of(data: bytes) -> MediaType | None:
    """What kind of image it is; None where it is none that is taken."""
    return next((kind for kind, beginning in _BEGINNINGS.items() if beginning.match(data)), None)
