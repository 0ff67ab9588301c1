"""Images of a conversation: kept beside it, named in what the user says, shown to the model wherever they are named."""

import asyncio
import base64
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from agent.cli.failure import ExitCode, Failure
from agent.cli.images import image_of
from agent.model import Model
from agent.rewriting import Rewriting
from agent.store.artifacts import NewImage
from agent.types import Message

_NAMED = re.compile(r"\[image ([\w-]+\.(?:png|jpeg|webp))\]")

_CLIPBOARDS = (
    ("wl-paste", "--type", "image/png"),
    ("xclip", "-selection", "clipboard", "-t", "image/png", "-o"),
    ("pngpaste", "-"),
)
"""Programs that write the clipboard's image: of Wayland, X and macOS."""


class Images:
    """The files of one conversation."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, image: NewImage, name: str) -> str:
        """Take one in; the words that stand for it."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        stem, kind = re.sub(r"[^\w-]+", "-", name).strip("-")[:40] or "image", image.media_type.removeprefix("image/")
        file, number = self._folder / f"{stem}.{kind}", 1
        while file.exists() and file.read_bytes() != image.data:
            number += 1
            file = self._folder / f"{stem}-{number}.{kind}"
        file.write_bytes(image.data)
        return f"[image {file.name}]"

    def parts(self, text: str) -> list[dict[str, Any]]:
        """Those that a text names, in the form of content parts."""
        found = dict.fromkeys(match[1] for match in _NAMED.finditer(text))
        return [_part(file) for name in found if (file := self._folder / name).is_file()]


def _part(file: Path) -> dict[str, Any]:
    data = base64.b64encode(file.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/{file.suffix[1:]};base64,{data}"}}


class Showing(Rewriting):
    """Shows each image with the user's words that name it."""

    def __init__(self, model: Model, images: Images) -> None:
        super().__init__(model)
        self._images = images

    async def _rewritten(self, messages: Sequence[Message]) -> Sequence[Message]:
        return list(map(self._shown, messages))

    def _shown(self, message: Message) -> Message:
        if message["role"] != "user" or not (parts := self._images.parts(message["content"])):
            return message
        return message | {"content": [{"type": "text", "text": message["content"]}, *parts]}


def dropped(pasted: str) -> Path | None:
    """The image file whose path a terminal writes where it is dropped, quoted in one way or another; None for all else.

    >>> dropped("some words")
    """
    try:
        words = shlex.split(pasted)
    except ValueError:
        return None
    if len(words) != 1:
        return None
    path = Path(unquote(urlsplit(words[0]).path) if words[0].startswith("file://") else words[0])
    looks = path.is_absolute() and path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")
    return path if looks and path.is_file() else None


async def clipboard() -> NewImage:
    """
    Raises:
        Failure: it has no image, or nothing here can read it.
    """
    for command in _CLIPBOARDS:
        if shutil.which(command[0]):
            quiet, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
            asked = await asyncio.create_subprocess_exec(*command, stdin=quiet, stdout=pipe, stderr=quiet)
            data, _ = await asked.communicate()
            if data:
                return image_of(data, "what is in the clipboard")
    raise Failure(ExitCode.USAGE, "no image is in the clipboard, or it cannot be read", "name a file: /image PATH")
