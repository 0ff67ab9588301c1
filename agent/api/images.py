"""Images in what a user says: read at the edge, kept as artifacts of the task."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence

from agent.api.body import rejected
from agent.api.context import Context
from agent.api.schemas import Image, MediaType
from agent.events import KeptImage, MessageAdded
from agent.store.ids import new_id

_WITH_PROBLEM = "This is what the problem looks like:"

_BEGINNINGS: Mapping[MediaType, re.Pattern[bytes]] = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}


def media_type_of(data: bytes) -> MediaType | None:
    """What kind of image it is, by its beginning; None where it is none that is taken."""
    return next((kind for kind, beginning in _BEGINNINGS.items() if beginning.match(data)), None)


def read_images(
    shared: Context, model: str, images: Sequence[Image], at: str = "/images", each: Sequence[str] | None = None
) -> list[bytes]:
    """
    Args:
        model: who would be shown them.
        at: JSON pointer to them in the body.
        each: to the data of each; None for those of :class:`Image` below ``at``.

    Raises:
        Problem: the model takes text alone, the service keeps none, or one is not what it says it is.
    """
    if images and not shared.takes_images:
        raise rejected(
            at,
            f"The model {model} takes text alone",
            "Say in words what the images show, or put what matters of them into files of the repository.",
            code="images_not_taken",
        )
    if images and shared.store.artifacts is None:
        raise rejected(
            at,
            "This service has no storage for images",
            "Say in words what the images show; its operator can name a storage for artifacts.",
            code="images_not_taken",
        )
    pointers = [f"{at}/{number}/data" for number in range(len(images))] if each is None else each
    return [_read(image, pointer) for image, pointer in zip(images, pointers, strict=True)]


def _read(image: Image, pointer: str) -> bytes:
    remedy = "Send the whole file in base 64, and its own type."
    try:
        data = base64.b64decode(image.data, validate=True)
    except binascii.Error as error:
        raise rejected(pointer, f"Not base 64: {error}", remedy) from error
    if not _BEGINNINGS[image.media_type].match(data):
        raise rejected(pointer, f"It does not begin as {image.media_type} does", remedy)
    return data


async def show_images(shared: Context, task_id: str, images: Sequence[Image], contents: Sequence[bytes]) -> None:
    """Show the agent of a task that was just submitted what :func:`read_images` returned, with its problem."""
    if not images:
        return
    message = MessageAdded(message_id=new_id("msg"), text=_WITH_PROBLEM)
    kept = await keep_images(shared, task_id, message.message_id, images, contents)
    body = message.model_copy(update={"images": kept}).model_dump(mode="json")
    await shared.tasks.tell(task_id, "message.added", body)


async def keep_images(
    shared: Context, task_id: str, message_id: str, images: Sequence[Image], contents: Sequence[bytes]
) -> tuple[KeptImage, ...]:
    """Keep what :func:`read_images` returned, for a message that is about to be said.

    Raises:
        UnknownTask: the task was deleted meanwhile.
    """
    kept = shared.store.artifacts
    assert kept is not None or not images, "read_images refuses them then"
    found = []
    for number, (image, data) in enumerate(zip(images, contents, strict=True)):
        name = f"messages/{message_id}/{number}.{image.media_type.removeprefix('image/')}"
        if kept is not None:
            await kept.attach(shared.principal.project_id, task_id, name, data, image.media_type)
        found.append(KeptImage(task_id=task_id, name=name, media_type=image.media_type))
    return tuple(found)
