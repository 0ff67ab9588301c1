"""What users say to a task while it is worked on."""

from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from agent.api.auth import needs
from agent.api.body import described, read_body
from agent.api.context import Context, Shared
from agent.api.images import read_images
from agent.api.log import whole_log
from agent.api.once import IdempotencyKey, once
from agent.api.problems import Problem
from agent.api.schemas import MessageList, MessageState, MessageText, MessageView
from agent.api.tasks import new_message
from agent.events import MessageAdded, MessageTaken
from agent.store.idempotency import Keyed
from agent.types import Event

router = APIRouter(prefix="/v1/tasks", tags=["messages"])


@router.get("/{task_id}/messages", dependencies=[needs("tasks:read")])
async def list_messages(task_id: str, shared: Shared) -> MessageList:
    """What was said to the task, oldest first, and whether the agent has read it."""
    await shared.tasks.get(task_id)
    return MessageList(messages=tuple((await messages_of(shared, task_id)).values()))


@router.post(
    "/{task_id}/messages",
    dependencies=[needs("tasks:write")],
    status_code=HTTPStatus.ACCEPTED,
    response_model=MessageView,
    openapi_extra=described(MessageText),
)
async def say(task_id: str, request: Request, shared: Shared, idempotency_key: IdempotencyKey = None) -> Response:
    """Say something to the agent: before its next model call (steer), once it has finished (queue), or at once, for
    which a model call under way is given up (interrupt). A task that waits for an answer takes it as that."""
    said = await read_body(request, MessageText)
    task = await shared.tasks.get(task_id)
    images = read_images(shared, task.request.model.name or shared.model_name, said.images)
    message = new_message(said.text, "/text", said.delivery)

    def added(event: Event) -> tuple[str, MessageView]:
        return task_id, _view(event)

    async def do(keyed: Keyed[tuple[str, MessageView]] | None) -> tuple[str, MessageView]:
        await _expect_run(shared, task_id, said.expected_run_id)
        return added(await shared.tasks.say(task_id, message, images, keyed=keyed and keyed.of(added)))

    return await once(shared, request, idempotency_key, do)


@router.delete(
    "/{task_id}/messages/{message_id}", dependencies=[needs("tasks:write")], status_code=HTTPStatus.NO_CONTENT
)
async def take_back(task_id: str, message_id: str, shared: Shared) -> None:
    """Take back a message that the agent has not read. Asking again changes nothing."""
    await shared.tasks.get(task_id)
    message = (await messages_of(shared, task_id)).get(message_id)
    if message is None:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "unknown_message",
            f"Task {task_id} has no message {message_id[:64]}.",
            remedy="GET /v1/tasks/{id}/messages lists what was said to it.",
        )
    if message.state == "taken":
        raise Problem(
            HTTPStatus.CONFLICT,
            "message_taken",
            f"The agent has read message {message_id} already.",
            remedy="Send another message that says what should be done instead.",
        )
    if message.state == "queued":
        await shared.tasks.tell(task_id, "message.removed", {"message_id": message_id})


async def _expect_run(shared: Context, task_id: str, run_id: str | None) -> None:
    """So that no message lands in a run that its writer has not seen."""
    if run_id is None:
        return
    running = (await shared.tasks.get(task_id)).shown.run_id
    if run_id != running:
        raise Problem(
            HTTPStatus.CONFLICT,
            "other_run",
            f"The task's run is {running} now, not {run_id[:64]}.",
            remedy="GET /v1/tasks/{id} shows where the task is; say it to that run, or leave expected_run_id out.",
        )


async def messages_of(shared: Context, task_id: str) -> dict[str, MessageView]:
    """What was said to a task, by id, in the order in which they were said."""
    found: dict[str, MessageView] = {}
    states: dict[str, MessageState] = {}
    for word in await shared.store.user_events(task_id):
        if word.type == "message.added":
            view = _view(word)
            found[view.id] = view
        elif word.type == "message.removed":
            states[str(word.body["message_id"])] = "removed"
    if found:
        first = next(iter(found.values())).seq
        async for event in whole_log(shared.tasks, task_id, after=first):
            if event.type == "message.taken":
                states[MessageTaken.model_validate(event.body).message_id] = "taken"
    return {
        message_id: view.model_copy(update={"state": states.get(message_id, "queued")})
        for message_id, view in found.items()
    }


def _view(event: Event) -> MessageView:
    message = MessageAdded.model_validate(event.body)
    return MessageView(
        id=message.message_id,
        text=message.text,
        images=tuple(image.name for image in message.images),
        delivery=message.delivery,
        state="queued",
        seq=event.seq,
        at=event.at,
    )
