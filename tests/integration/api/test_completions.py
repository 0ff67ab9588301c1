"""Programs that chat as with OpenAI's API have tasks done: by OpenAI's own client, with a real worker."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx
import openai
import pytest
from fastapi import FastAPI

from agent.api.app import create_app
from agent.events import ApprovalRequested
from agent.identity import DEFAULT_PROJECT, ROLES
from agent.integrations.remote import Reach
from agent.store.base import Project, RunResult, Store
from agent.store.open import open_store
from agent.store.repos import Repos, RepoSettings
from agent.testing import Script, ScriptedEndpoint, Stalled, call, turns
from agent.types import AssistantMessage, Event, Limits, Status, StopReason, TaskRequest, ToolCall, WaitingOn

from .conftest import Serve
from .working import FINISH, LOOK, MEND, PATCHED, REPAIR, asking, broken_repository, working

pytestmark = pytest.mark.anyio

OPERATOR = "the operator's own"
GREETING: list[Any] = [{"role": "user", "content": "add() subtracts"}]
NOTE = call("bash", command="echo hello > notes.txt")
TEXT = {"type": "text", "text": "look"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
ELSEWHERE = {"type": "image_url", "image_url": {"url": "https://pictures.example.org/1.png"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}


def _saying(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [TEXT, *parts]}]}


def _app(store: Store, **fields: Any) -> FastAPI:
    async def resolve(path: Path, commit: str) -> str:
        return "HEAD"

    return create_app(store, resolve, api_key=OPERATOR, reach=Reach(paths=(Path("/repo"),)), **fields)


def _client(url: str, key: str = OPERATOR) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=240)


class Service:
    """A service with a worker, and a repository with a bug."""

    def __init__(self, store: Store, client: openai.AsyncOpenAI, url: str, repository: Path) -> None:
        self.store = store
        self.tasks = store.of(DEFAULT_PROJECT)
        self.client = client
        self.url = url
        self.about = {"repository": str(repository)}

    async def chat(self, messages: list[Any], **more: Any) -> Any:
        given = {"model": "mimo-native", "metadata": self.about, "messages": messages}
        return await self.client.chat.completions.create(**given | more)


@pytest.fixture
async def start(serve: Serve, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:

        async def starting(script: Script, *faults: Stalled) -> Service:
            store_url = f"sqlite:///{tmp_path}/mimo.db"
            repository = broken_repository(tmp_path / "repository")
            model = stack.enter_context(ScriptedEndpoint(script, faults).running())
            store = await stack.enter_async_context(open_store(store_url))
            url = await stack.enter_async_context(serve(_app(store)))
            client = await stack.enter_async_context(_client(url))
            await stack.enter_async_context(working(store_url, tmp_path / "data", model))
            return Service(store, client, url, repository)

        yield starting


@asynccontextmanager
async def _alone(store: Store, serve: Serve, **fields: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    """A service without a worker."""
    async with serve(_app(store, **{"answer_wait_s": 0.05} | fields)) as url, _client(url) as client:
        yield client


async def test_answer_holds_thoughts_calls_and_the_last_word_streamed_or_not(start: Callable[..., Any]) -> None:
    service = await start(REPAIR)
    streamed = await _read(await service.chat(GREETING, stream=True, stream_options={"include_usage": True}))
    whole = await service.chat(GREETING)

    said = whole.choices[0].message
    first, second = streamed.outcome["task_id"], whole.mimo["task_id"]
    assert first != second
    assert streamed.content.replace(first, second) == said.content
    assert streamed.reasoning == said.reasoning_content
    assert streamed.roles == ["assistant"]
    assert (streamed.finish_reasons, whole.choices[0].finish_reason) == (["stop"], "stop")
    page = f"{service.url}/tasks/{second}"
    assert said.content == f"Let me look.\n\nadd() adds\n\n[Task {second}]({page}) succeeded, unverified."
    told = said.reasoning_content.split("\n")
    assert [line for line in told if line and "began" not in line][:5] == [
        "It subtracts.",
        "› bash cat calc.py",
        "  exit code: 0",
        "› edit calc.py",
        "  edited line 2",
    ]
    assert whole.mimo == {
        "task_id": second,
        "status": "succeeded",
        "waiting_on": None,
        "stop_reason": "finished",
        "verdict": "unverified",
        "url": page,
        "patch_url": f"{service.url}/v1/tasks/{second}/diff",
    }
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {OPERATOR}"}) as http:
        assert PATCHED in (await http.get(whole.mimo["patch_url"], headers={"Accept": "text/x-diff"})).text
    assert streamed.usage.total_tokens == whole.usage.total_tokens > 0


class Streamed:
    """What a stream said."""

    def __init__(self) -> None:
        self.content = self.reasoning = ""
        self.roles: list[str] = []
        self.finish_reasons: list[str] = []
        self.outcome: Any = None
        self.usage: Any = None

    def take(self, chunk: Any) -> None:
        self.usage = chunk.usage or self.usage
        self.outcome = chunk.mimo or self.outcome
        for choice in chunk.choices:
            self.content += choice.delta.content or ""
            self.reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            self.roles += [choice.delta.role] if choice.delta.role else []
            self.finish_reasons += [choice.finish_reason] if choice.finish_reason else []


async def _read(stream: Any) -> Streamed:
    read = Streamed()
    async for chunk in stream:
        read.take(chunk)
    return read


async def test_thought_is_read_while_it_is_thought(start: Callable[..., Any]) -> None:
    thought = "it subtracts where it should add " * 20
    service = await start(REPAIR, Stalled(AssistantMessage(content="", reasoning_content=thought)))
    read = Streamed()
    stream = await service.chat(GREETING, stream=True)
    async for chunk in stream:
        read.take(chunk)
        if thought in read.reasoning:
            break
    await stream.close()

    page = await service.tasks.list_tasks()
    assert not await service.tasks.events(page.tasks[0].id, types={"step.message"})


async def test_conversation_goes_on_with_files_words_and_limits_after_the_task_has_ended(
    start: Callable[..., Any],
) -> None:
    """By the line at the end of each answer, which a chat program sends back."""
    service = await start(turns(LOOK, MEND, FINISH, NOTE, call("finish", summary="noted"), FINISH, FINISH))
    limits = Limits(max_steps=3)
    repository = service.about["repository"]
    request = TaskRequest(repository=repository, problem_statement="add() subtracts", limits=limits)
    task = await service.tasks.submit(request)
    with anyio.fail_after(120):
        while not (await service.tasks.get(task.id)).status.terminal:  # noqa: ASYNC110 - another process
            await anyio.sleep(0.1)

    first = await service.chat([{"role": "user", "content": "leave a note"}], metadata={"task_id": task.id})
    said = [*GREETING, {"role": "assistant", "content": first.choices[0].message.content}]
    second = await service.chat([*said, {"role": "user", "content": "now check"}])

    assert first.choices[0].message.content.startswith("noted\n")
    assert len({task.id, first.mimo["task_id"], second.mimo["task_id"]}) == 3
    patch = (await service.tasks.get(second.mimo["task_id"])).patch
    assert PATCHED in patch
    assert "notes.txt" in patch
    heard = await service.tasks.events(second.mimo["task_id"], types={"message.taken"})
    assert [event.body["text"] for event in heard] == ["leave a note", "now check"]


async def test_question_is_the_answer_and_what_is_said_next_answers_it(start: Callable[..., Any]) -> None:
    service = await start(asking)
    asked = await service.chat(GREETING, model="mimo-assistant")
    content = asked.choices[0].message.content
    said = [*GREETING, {"role": "assistant", "content": content}, {"role": "user", "content": "+"}]
    ended = await _read(await service.chat(said, model="mimo-assistant", stream=True))

    assert content.startswith("Which sign?\n- +\n- -\n\n[Task ")
    assert content.endswith("waits for your answer; write it here.")
    assert (asked.mimo["waiting_on"], asked.mimo["patch_url"]) == ("question", None)
    assert ended.outcome["task_id"] == asked.mimo["task_id"]
    assert ended.content.startswith("add() adds\n\n[Task ")
    assert "Which sign?" not in ended.content


async def test_answer_that_takes_too_long_says_where_the_task_is(store: Store, serve: Serve) -> None:
    async with _alone(store, serve) as client:
        given: dict[str, Any] = {"model": "mimo-native", "metadata": {"repository": "/repo"}}
        first = await client.chat.completions.create(messages=GREETING, **given)
        content = first.choices[0].message.content
        said: list[Any] = [*GREETING, {"role": "assistant", "content": content}, {"role": "user", "content": "hurry"}]
        forwarded = {"X-Forwarded-Proto": "https"}
        second: Any = await client.chat.completions.create(messages=said, extra_headers=forwarded, **given)

    assert second.mimo["url"] == first.to_dict()["mimo"]["url"].replace("http:", "https:")
    assert first.choices[0].finish_reason == "length"
    assert content is not None
    assert "is queued: it is next, and waits for a worker. What you write here is told to it" in content
    task_id = second.mimo["task_id"]
    assert f"[Task {task_id}]" in content
    words = await store.user_events(task_id)
    assert [word.body["text"] for word in words] == ["hurry"]


_BASH = ToolCall(id="c", name="bash", arguments='{"command": "rm -r build"}')
_APPROVAL = ApprovalRequested(step=1, approval_id="r-1-0", call=_BASH, parts=("rm -r build",))


@pytest.mark.parametrize(
    ("asked", "status", "waits", "words"),
    [
        (
            ("approval.requested", _APPROVAL.model_dump(mode="json")),
            Status.WAITING,
            WaitingOn.APPROVAL,
            "This waits for your word:\n\n    bash rm -r build\n\n"
            "[Task {}]({}) waits for your word; give it on its page.",
        ),
        (
            None,
            Status.WAITING,
            WaitingOn.BUDGET,
            "the limit of 50 steps is reached\n\n[Task {}]({}) waits for a higher limit; raise it on its page.",
        ),
        (None, Status.PAUSED, None, "[Task {}]({}) is paused; resume it on its page."),
    ],
    ids=["approval", "budget", "paused"],
)
async def test_what_a_task_waits_for_is_the_end_of_the_answer(
    asked: tuple[str, dict[str, Any]] | None,
    status: Literal[Status.WAITING, Status.PAUSED],
    waits: WaitingOn | None,
    words: str,
    store: Store,
    serve: Serve,
) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(TaskRequest(repository="/repo", problem_statement="a"))
    claim = await store.claim("worker", 600)
    assert claim is not None
    if asked is not None:
        await store.append(claim.run_id, claim.generation, *asked)
    detail = {"stop_reason": "step_limit", "detail": "the limit of 50 steps is reached"}
    await store.park(claim.run_id, claim.generation, status, waits, detail)
    async with _alone(store, serve, answer_wait_s=240) as client:
        answer: Any = await client.chat.completions.create(
            model="mimo-native", messages=GREETING, metadata={"task_id": task.id}
        )

    assert answer.choices[0].message.content == words.format(task.id, answer.mimo["url"])
    assert answer.choices[0].finish_reason == "stop"


async def test_words_that_a_task_no_longer_reads_are_the_beginning_of_its_next(store: Store, serve: Serve) -> None:
    tasks = store.of(DEFAULT_PROJECT)
    task = await tasks.submit(TaskRequest(repository="/repo", problem_statement="a"))
    claim = await store.claim("worker", 600)
    assert claim is not None
    read: list[Streamed] = []

    async def chat(client: openai.AsyncOpenAI) -> None:
        said: list[Any] = [{"role": "user", "content": "and b"}]
        stream = client.chat.completions.create(
            model="mimo-native", messages=said, metadata={"task_id": task.id}, stream=True
        )
        read.append(await _read(await stream))

    async with _alone(store, serve) as client, anyio.create_task_group() as group:
        group.start_soon(chat, client)
        await _event(store, task.id, lambda event: event.type == "message.added")
        ended = RunResult(status=Status.SUCCEEDED, stop_reason=StopReason.FINISHED)
        await store.finish(claim.run_id, claim.generation, ended)
        with anyio.fail_after(120):
            while not (waiting := (await tasks.list_tasks(status=Status.QUEUED)).tasks):  # noqa: ASYNC110 - the service
                await anyio.sleep(0.05)
        await tasks.cancel(waiting[0].id)

    assert read[0].outcome["task_id"] == waiting[0].id != task.id
    assert [word.body.get("text") for word in await store.user_events(waiting[0].id)] == ["and b", None]


async def _event(store: Store, task_id: str, wanted: Callable[[Event], bool]) -> None:
    with anyio.fail_after(120):
        while not any(map(wanted, await store.of(DEFAULT_PROJECT).events(task_id))):  # noqa: ASYNC110 - another task
            await anyio.sleep(0.05)


async def test_repository_is_part_of_the_models_name_and_one_alone_is_meant(store: Store, serve: Serve) -> None:
    repos = Repos(store.database)
    async with _alone(store, serve) as client:
        with pytest.raises(openai.UnprocessableEntityError, match=r"0 repositories.*GET /v1/models"):
            await client.chat.completions.create(model="mimo-native", messages=GREETING)
        await repos.create("default", "web", RepoSettings(url="https://git.example/web.git"), updated_by="a")
        names = [model.id async for model in client.models.list()]
        for model in ("mimo-native", "mimo-native/web", "mimo-native/other"):
            with pytest.raises(openai.UnprocessableEntityError) as refused:
                await client.chat.completions.create(model=model, messages=GREETING)
            # There is no such host here; which repository was meant is what matters.
            known = "other" not in model
            assert ("git.example" in str(refused.value)) is known, refused.value

    assert names == [
        *(f"mimo-{profile}" for profile in ("native", "assistant", "mini")),
        *(f"mimo-{profile}/web" for profile in ("native", "assistant", "mini")),
    ]


async def test_conversation_that_turns_to_another_profile_is_another_task_that_knows_it(
    store: Store, serve: Serve
) -> None:
    async with _alone(store, serve) as client:
        about = {"repository": "/repo"}
        first: Any = await client.chat.completions.create(model="mimo-native", messages=GREETING, metadata=about)
        answer = first.choices[0].message.content
        said: list[Any] = [
            {"role": "system", "content": "You write titles."},
            *GREETING,
            {"role": "assistant", "content": answer},
            {"role": "user", "content": [{"type": "text", "text": "ask me"}]},
        ]
        second: Any = await client.chat.completions.create(model="mimo-assistant", messages=said, metadata=about)

    request = (await store.of(DEFAULT_PROJECT).get(second.mimo["task_id"])).request
    assert second.mimo["task_id"] != first.mimo["task_id"]
    assert (request.profile, request.problem_statement) == ("assistant", "ask me")
    assert [(said.role, said.content) for said in request.conversation] == [
        ("user", "add() subtracts"),
        ("assistant", answer),
    ]


async def test_tasks_of_other_projects_are_not_there_and_scopes_hold(store: Store, serve: Serve) -> None:
    await store.make_project(Project(project_id="beta"))
    _, beta = await store.identities.create_key("beta", "b", ROLES["member"], created_by="a test", expires_at=None)
    _, viewer = await store.identities.create_key("beta", "v", ROLES["viewer"], created_by="a test", expires_at=None)
    task = await store.of(DEFAULT_PROJECT).submit(TaskRequest(repository="/repo", problem_statement="a"))
    named = {"role": "assistant", "content": f"[Task {task.id}](http://mimo.example/tasks/{task.id}) succeeded."}
    async with serve(_app(store)) as url, _client(url, beta) as client, _client(url, viewer) as weak:
        with pytest.raises(openai.NotFoundError, match=f"no task {task.id}"):
            await client.chat.completions.create(model="mimo-native", messages=GREETING, metadata={"task_id": task.id})
        again: list[Any] = [named, *GREETING]
        with pytest.raises(openai.NotFoundError, match=f"no task {task.id}"):
            await client.chat.completions.create(model="mimo-native", messages=again)
        with pytest.raises(openai.PermissionDeniedError, match="tasks:write"):
            await weak.chat.completions.create(model="mimo-native", messages=GREETING)
        async with _client(url, "wrong") as nobody:
            with pytest.raises(openai.AuthenticationError, match="wrong, revoked or expired"):
                await nobody.chat.completions.create(model="mimo-native", messages=GREETING)

    assert await store.user_events(task.id) == ()


@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"model": "gpt-5"}, "#/model", "There is no model 'gpt-5'"),
        ({"messages": []}, "#/messages", "at least 1 item"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "#/messages/0/role", "not the user's"),
        ({"messages": [{"role": "user", "content": " "}]}, "#/messages/0/content", "blank"),
        ({"messages": [{"role": "user", "content": "a" * 100_001}]}, "#/messages/0/content", "100,000 characters"),
        (_saying(IMAGE), "#/messages/0/content", "takes text alone"),
        (_saying(*[IMAGE] * 5), "#/messages/0/content", "more than 4 images"),
        (_saying(ELSEWHERE), "#/messages/0/content/1/image_url/url", "no data URL of an image"),
        (_saying(SOUND), "#/messages/0/content/1", "not 'input_audio'"),
        ({"n": 2}, "#/n", "should be 1"),
    ],
)
async def test_what_cannot_be_is_refused_in_both_ways_of_saying_so(
    change: dict[str, Any], pointer: str, words: str, store: Store, serve: Serve
) -> None:
    body = {"model": "mimo-native", "messages": GREETING, "metadata": {"repository": "/repo"}, "tools": []} | change
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    async with serve(_app(store)) as url, httpx.AsyncClient(base_url=url, headers=headers) as http:
        answer = await http.post("/v1/chat/completions", json=body)

    problem = answer.json()
    assert (answer.status_code, problem["errors"][0]["pointer"]) == (422, pointer)
    assert words in problem["detail"]
    assert problem["error"]["code"] == problem["code"]
    assert problem["remedy"] in problem["error"]["message"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_request_that_is_sent_twice_under_a_key_is_one_task_with_one_answer(
    start: Callable[..., Any], stream: bool
) -> None:
    service = await start(REPAIR)
    ask = service.client.chat.completions.with_raw_response.create
    given = {"model": "mimo-native", "metadata": service.about, "stream": stream}
    headers = {"Idempotency-Key": "mine"}
    answers = []
    for _ in range(2):
        raw = await ask(messages=GREETING, extra_headers=headers, **given)
        parsed = raw.parse()
        read = await _read(parsed) if stream else None
        content = read.content if read else parsed.choices[0].message.content
        answers.append((content, read.outcome if read else parsed.mimo, raw.headers.get("idempotent-replay")))
    with pytest.raises(openai.UnprocessableEntityError, match="came before with another request"):
        await ask(messages=[{"role": "user", "content": "another"}], extra_headers=headers, **given)

    (content, outcome, replayed), again = answers
    assert again == (content, outcome, "true")
    assert replayed is None
    assert outcome["status"] == "succeeded"
    assert [task.id for task in (await service.tasks.list_tasks()).tasks] == [outcome["task_id"]]


async def test_words_that_are_sent_twice_under_a_key_are_said_once(store: Store, serve: Serve) -> None:
    async with _alone(store, serve) as client:
        given: dict[str, Any] = {"model": "mimo-native", "metadata": {"repository": "/repo"}}
        first: Any = await client.chat.completions.create(messages=GREETING, **given)
        answer = {"role": "assistant", "content": first.choices[0].message.content}
        said: list[Any] = [*GREETING, answer, {"role": "user", "content": "hurry"}]
        again: list[Any] = [
            await client.chat.completions.create(messages=said, extra_headers={"Idempotency-Key": "hurry"}, **given)
            for _ in range(2)
        ]

    assert {each.mimo["task_id"] for each in again} == {first.mimo["task_id"]}
    assert [word.body["text"] for word in await store.user_events(first.mimo["task_id"])] == ["hurry"]


async def test_who_may_not_read_reasoning_reads_calls_alone(start: Callable[..., Any]) -> None:
    service = await start(REPAIR)
    scopes = ROLES["member"] - {"reasoning:read"} | {"service:admin"}
    _, key = await service.store.identities.create_key(
        DEFAULT_PROJECT, "shy", scopes, created_by="a test", expires_at=None
    )
    async with _client(service.url, key) as client:
        answer: Any = await client.chat.completions.create(
            model="mimo-native", messages=GREETING, metadata=service.about
        )

    told = answer.choices[0].message.reasoning_content
    assert "› bash cat calc.py" in told
    assert "It subtracts." not in told
