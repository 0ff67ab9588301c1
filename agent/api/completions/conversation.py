"""Which task a request of a chat program speaks to.

Chat programs send the whole conversation with every request, and no name of it. Each answer ends in a line that names
its task (``telling.closing``); the last such line is how the next request finds it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self

from agent.api.body import rejected
from agent.api.completions.models import read_model
from agent.api.completions.shapes import ChatMetadata, ChatRequest, ContentPart
from agent.api.context import Context
from agent.api.following import sequel
from agent.api.images import read_images
from agent.api.problems import Problem
from agent.api.schemas import MAX_IMAGE_CHARS, MAX_IMAGES, Image
from agent.api.tasks import new_message, queue_task
from agent.errors import TaskOver
from agent.events import MessageAdded
from agent.store.artifacts import NewImage
from agent.store.base import TaskRecord
from agent.store.idempotency import Keyed
from agent.types import Event, ProfileName, Said, TaskRequest

_NAMED = re.compile(r"\[Task (task_[0-9a-f]{32})\]\(")
_DATA_URL = re.compile(r"data:(image/(?:png|jpeg|webp));base64,(.*)", re.DOTALL)
_MOST_CHARS = 100_000


@dataclass(frozen=True, slots=True)
class Turn:
    """What was said, and where its answer begins."""

    task_id: str
    after: int
    """Sequence number of the event before it."""
    told: MessageAdded | None = None
    """What a task that was not over was told; None where the task begins with it."""


async def begin(
    shared: Context, headers: Mapping[str, str], asked: ChatRequest, keyed: Keyed[Turn] | None = None
) -> Turn:
    """Tell the last message to the task of the conversation, or make a task of it.

    Raises:
        Problem: the request cannot be.
        UnknownTask: the project has no such task.
    """
    profile, repository = read_model(asked.model)
    text, shown = _last_words(asked), _Shown.of(asked)
    images = read_images(shared, shared.model_name, shown.images, f"{_last(asked)}/content", shown.pointers)
    about = asked.metadata or ChatMetadata()
    repository = about.repository or repository
    task = await _meant(shared, asked, profile, repository)
    if task is not None:
        message = new_message(text, _last(asked))
        return await speak(shared, task, message, images, keyed)
    request = TaskRequest(
        repository=repository or await _only_repository(shared),
        base_commit=about.base_commit or "HEAD",
        problem_statement=text,
        conversation=_earlier(asked),
        profile=profile,
    )
    return _turn(await queue_task(shared, headers, request, images, keyed=keyed and keyed.of(_turn)))


def _turn(task: TaskRecord) -> Turn:
    """That a new task begins with."""
    return Turn(task.id, task.last_seq)


async def speak(
    shared: Context,
    task: TaskRecord,
    message: MessageAdded,
    images: Sequence[NewImage] = (),
    keyed: Keyed[Turn] | None = None,
) -> Turn:
    """Tell a task something; one that is over goes on in a new one, with its files and its conversation."""
    if not task.status.terminal:
        try:
            return _told(await shared.tasks.say(task.id, message, images, keyed=keyed and keyed.of(_told)))
        except TaskOver:
            task = await shared.tasks.get(task.id)
    then, subject = await sequel(shared, task), shared.principal.subject
    forked = await shared.tasks.fork(
        task.id,
        then.at_event,
        created_by=subject,
        message=message,
        images=images,
        limits=then.limits,
        keyed=keyed and keyed.of(_turn),
    )
    return _turn(forked)


def _told(event: Event) -> Turn:
    return Turn(event.task_id, event.seq, MessageAdded.model_validate(event.body))


async def _meant(
    shared: Context, asked: ChatRequest, profile: ProfileName, repository: str | None
) -> TaskRecord | None:
    """The task that the request names, or that of its conversation; None where it begins one, or turns to another
    repository or profile."""
    if asked.metadata and asked.metadata.task_id:
        return await shared.tasks.get(asked.metadata.task_id)
    texts = (message.text for message in reversed(asked.messages) if message.role == "assistant")
    named = next((found[-1] for text in texts if (found := _NAMED.findall(text))), None)
    if named is None:
        return None
    task = await shared.tasks.get(named)
    same = task.request.profile == profile and repository in (None, task.request.repository)
    return task if same else None


def _last_words(asked: ChatRequest) -> str:
    said, pointer = asked.messages[-1], _last(asked)
    if said.role != "user":
        raise rejected(f"{pointer}/role", "The last message is not the user's", "End with what the agent should do.")
    if not said.text.strip():
        raise rejected(f"{pointer}/content", "The message is blank", "Say what is wrong or wanted.")
    if len(said.text) > _MOST_CHARS:
        raise rejected(
            f"{pointer}/content",
            f"The message has more than {_MOST_CHARS:,} characters",
            "Put long material into a file of the repository and name that file.",
        )
    return said.text


@dataclass(frozen=True, slots=True)
class _Shown:
    """The images of the last message; those of earlier ones were shown to their own tasks."""

    images: tuple[Image, ...]
    pointers: tuple[str, ...]
    """Where each stands in the body."""

    @classmethod
    def of(cls, asked: ChatRequest) -> Self:
        """
        Raises:
            Problem: there is something else than text and images, or too many of them.
        """
        at = f"{_last(asked)}/content"
        parts = [(f"{at}/{number}", part) for number, part in enumerate(asked.messages[-1].parts)]
        parts = [(pointer, part) for pointer, part in parts if part.type != "text"]
        if len(parts) > MAX_IMAGES:
            raise rejected(at, f"The message has more than {MAX_IMAGES} images", "Send those that matter most.")
        return cls(
            tuple(_image(part, pointer) for pointer, part in parts),
            tuple(f"{pointer}/image_url/url" for pointer, _ in parts),
        )


def _image(part: ContentPart, pointer: str) -> Image:
    if part.type != "image_url" or part.image_url is None:
        raise rejected(pointer, f"Only text and images are taken here, and not {part.type!r}", "Say it in words.")
    found = _DATA_URL.fullmatch(part.image_url.url)
    if found is None or not 0 < len(found[2]) <= MAX_IMAGE_CHARS:
        raise rejected(
            f"{pointer}/image_url/url",
            f"It is no data URL of an image, of at most {MAX_IMAGE_CHARS:,} characters in base 64",
            "Send data:image/png;base64,... or image/jpeg or image/webp; addresses are not fetched.",
        )
    return Image.model_validate({"media_type": found[1], "data": found[2]})


def _last(asked: ChatRequest) -> str:
    return f"/messages/{len(asked.messages) - 1}"


def _earlier(asked: ChatRequest) -> tuple[Said, ...]:
    """What was said before, to whichever model; system prompts are written for others."""
    before = [message for message in asked.messages[:-1] if message.text.strip()]
    return tuple(
        Said(role="user" if message.role == "user" else "assistant", content=message.text)
        for message in before
        if message.role in ("user", "assistant")
    )


async def _only_repository(shared: Context) -> str:
    names = [repo.name for repo in await shared.remotes.repos.all(shared.principal.project_id)]
    if len(names) == 1:
        return names[0]
    raise Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "which_repository",
        f"The project has {len(names)} repositories, and the request does not say which is meant.",
        remedy="Add its name to the model, such as mimo-native/NAME (GET /v1/models lists them), or send "
        "metadata.repository.",
    )
