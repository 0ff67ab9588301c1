"""Images that go with what a user says."""

import base64
from collections.abc import Sequence
from pathlib import Path

from agent.api.images import media_type_of
from agent.api.schemas import Image
from agent.cli.failure import ExitCode, Failure

_MOST = 4
_MAX_BYTES = 1_500_000
"""Of one; in base 64 it is a third longer, and a service takes 2 MB in all."""


def read_images(files: Sequence[Path]) -> tuple[Image, ...]:
    """
    Raises:
        Failure: one of them cannot be read, is none, or is too large; or there are too many.
    """
    if len(files) > _MOST:
        raise Failure(ExitCode.USAGE, f"--image: {len(files)} are too many", f"give at most {_MOST}")
    return tuple(map(_read, files))


def _read(file: Path) -> Image:
    try:
        data = file.expanduser().read_bytes()
    except OSError as error:
        raise Failure(ExitCode.USAGE, f"--image: {file} cannot be read: {error.strerror}", "name a file") from error
    media_type = media_type_of(data)
    if media_type is None:
        raise Failure(ExitCode.USAGE, f"--image: {file} is no PNG, JPEG or WebP", "convert it to one of them")
    if len(data) > _MAX_BYTES:
        raise Failure(ExitCode.USAGE, f"--image: {file} has {len(data):,} bytes", f"make it {_MAX_BYTES:,} or less")
    return Image(media_type=media_type, data=base64.b64encode(data).decode())
