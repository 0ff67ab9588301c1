"""Images that go with what a user says."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.failure import ExitCode, Failure
from agent.image import media_type_of
from agent.store.artifacts import NewImage

if TYPE_CHECKING:
    from agent.api.schemas import Image

_MOST = 4
_MOST_SENT_BYTES = 1_500_000
"""Of one; in base 64 it is a third longer, and a service takes 2 MB in all."""
_MOST_BYTES = 10_000_000
"""Of one that goes to a model endpoint itself; common endpoints take no more."""


def read_images(files: Sequence[Path]) -> "tuple[Image, ...]":
    """For a service.

    Raises:
        Failure: one of them cannot be read, is none, or is too large; or there are too many.
    """
    from agent.api.schemas import Image  # Slow to import, and a conversation sends none to a service.

    found = (read_image(file, _MOST_SENT_BYTES) for file in few(files))
    return tuple(Image(media_type=each.media_type, data=base64.b64encode(each.data).decode()) for each in found)


def few(files: Sequence[Path]) -> Sequence[Path]:
    """
    Raises:
        Failure: there are too many.
    """
    if len(files) > _MOST:
        raise Failure(ExitCode.USAGE, f"{len(files)} images are too many", f"give at most {_MOST}")
    return files


def read_image(file: Path, most_bytes: int = _MOST_BYTES) -> NewImage:
    """
    Raises:
        Failure: it cannot be read, is none, or is too large.
    """
    try:
        data = file.expanduser().read_bytes()
    except OSError as error:
        raise Failure(ExitCode.USAGE, f"{file} cannot be read: {error.strerror}", "name a file") from error
    return image_of(data, str(file), most_bytes)


def image_of(data: bytes, name: str, most_bytes: int = _MOST_BYTES) -> NewImage:
    """
    Raises:
        Failure: it is no image, or too large.
    """
    media_type = media_type_of(data)
    if media_type is None:
        raise Failure(ExitCode.USAGE, f"{name} is no PNG, JPEG or WebP", "convert it to one of them")
    if len(data) > most_bytes:
        raise Failure(ExitCode.USAGE, f"{name} has {len(data):,} bytes", f"make it {most_bytes:,} or less")
    return NewImage(media_type, data)


def no_sight(model: str) -> Failure:
    """The model takes no images, as far as is known here."""
    remedy = "say in words what the images show; for a model that takes images set MIMO_MODEL_IMAGES=1"
    return Failure(ExitCode.USAGE, f"{model} takes text alone", remedy)
