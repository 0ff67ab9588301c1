"""Images in what a user says: read at the edge, kept as artifacts of the task."""

import base64
import binascii
from collections.abc import Sequence

from agent.api.body import rejected
from agent.api.context import Context
from agent.api.schemas import Image
from agent.events import MessageAdded
from agent.image import media_type_of
from agent.store.artifacts import NewImage
from agent.store.ids import new_id

_WITH_PROBLEM = "This is what the problem looks like:"


def read_images(
    shared: Context, model: str, images: Sequence[Image], at: str = "/images", each: Sequence[str] | None = None
) -> list[NewImage]:
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


def _read(image: Image, pointer: str) -> NewImage:
    remedy = "Send the whole file in base 64, and its own type."
    try:
        data = base64.b64decode(image.data, validate=True)
    except binascii.Error as error:
        raise rejected(pointer, f"Not base 64: {error}", remedy) from error
    if media_type_of(data) != image.media_type:
        raise rejected(pointer, f"It does not begin as {image.media_type} does", remedy)
    return NewImage(image.media_type, data)


def with_problem(images: Sequence[NewImage]) -> MessageAdded | None:
    """What the agent of a new task is shown with its problem."""
    return MessageAdded(message_id=new_id("msg"), text=_WITH_PROBLEM) if images else None
