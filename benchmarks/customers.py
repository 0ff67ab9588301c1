"""Users of the REST API, and their operator, who do all that such do. The load of ``benchmarks.day``."""

import asyncio
import json
import random
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from agent.testing import call
from agent.types import AssistantMessage, Message, Usage

_CUT_OFF = "the worker was restarted"
"""Part of what the model reads where a call did not come to its end."""
_PATIENCE_S = 1200.0
_MOST_STEPS = 6
_ANSWER_LIMIT_S = 600.0


def write_lines(messages: Sequence[Message]) -> AssistantMessage:
    """A model that writes as many lines as the problem says, and finishes; a call that was cut off is made again."""
    found = re.search(r"Write (\d+) lines", "\n".join(map(_text, messages)))
    wanted = int(found[1]) if found else 0
    said = sum(message["role"] == "assistant" for message in messages)
    cut_off = sum(_CUT_OFF in _text(message) for message in messages if message["role"] == "tool")
    if (line := said - cut_off) >= wanted:
        return call("finish", summary="done")
    return call("bash", command=f"echo line {line} >> lines.txt")


def _text(message: Message) -> str:
    return message["content"] if isinstance(message["content"], str) else json.dumps(message["content"])


@dataclass(slots=True)
class Told:
    """What customers did and were told."""

    accepted: dict[str, str] = field(default_factory=dict)
    """Tasks, each with its project."""
    to_be_cancelled: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    missed: set[str] = field(default_factory=set)
    """Tasks that were not there when a watcher looked."""
    kinds: Counter[str] = field(default_factory=Counter)
    latencies_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    num_streams: int = 0
    num_events_seen: int = 0
    faults: list[str] = field(default_factory=list)


class Customers:
    """Of several projects, at one address."""

    def __init__(
        self, http: httpx.AsyncClient, keys: Mapping[str, str], repository: str, chance: random.Random
    ) -> None:
        """
        Args:
            keys: of the projects, by id.
        """
        self.told = Told()
        self._http = http
        self._keys = keys
        self._repository = repository
        self._random = chance
        self._newest: deque[str] = deque(maxlen=50)
        self._kinds: dict[Callable[[str], Awaitable[None]], float] = {
            self._just_submit: 0.55,
            self._submit_twice: 0.10,
            self._cancel: 0.08,
            self._pause_and_resume: 0.07,
            self._talk: 0.08,
            self._ask_for_attempts: 0.04,
            self._run_out_of_tokens: 0.03,
            self._raise_a_limit: 0.03,
            self._delete: 0.02,
        }

    async def come(self, project_id: str) -> None:
        """One of them, with one task, of which he does not see the end where he need not."""
        (does,) = self._random.choices(list(self._kinds), list(self._kinds.values()))
        self.told.kinds[does.__name__.strip("_").replace("_", " ")] += 1
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await does(project_id)
        except (httpx.HTTPError, TimeoutError) as error:
            self.told.faults.append(f"a customer who came to {does.__name__} met {type(error).__name__}: {error}")

    async def watch(self, stopping: asyncio.Event) -> None:
        """One who looks at this task and that, leaves in the middle, and comes back to what he has not seen."""
        while not stopping.is_set():
            await self._a_while()
            if self._newest:
                await self._look_at(self._random.choice(self._newest))

    async def ask(
        self, what: str, project_id: str, method: str, path: str, *codes: int, **request: Any
    ) -> httpx.Response:
        """
        Args:
            what: names the call in the table.
            codes: of the answers that are right.
        """
        headers = {"Authorization": f"Bearer {self._keys[project_id]}", **request.pop("headers", {})}
        begun = time.monotonic()
        answer = await self._http.request(method, path, headers=headers, timeout=_ANSWER_LIMIT_S, **request)
        self.told.latencies_s[what].append(time.monotonic() - begun)
        if answer.status_code not in codes:
            self.told.faults.append(f"{method} {path} is answered {answer.status_code}: {answer.text[:300]}")
        return answer

    # What they come for.

    async def _just_submit(self, project_id: str) -> None:
        task_id = await self._submit(project_id)
        if self._random.random() < 0.3:
            await self.ask("show", project_id, "GET", f"/v1/tasks/{task_id}", 200)
        if self._random.random() < 0.1:
            await self.ask("list", project_id, "GET", "/v1/tasks?limit=20", 200)

    async def _submit_twice(self, project_id: str) -> None:
        """He does not hear the answer, or does not wait for it, and asks again with the same key."""
        key = f"key-{self._random.getrandbits(64):016x}"
        body = self._task()
        if self._random.random() < 0.5:
            first = await self._submit(project_id, body, key=key)
            again = await self._submit(project_id, body, key=key)
        else:
            first, again = await asyncio.gather(*(self._until_accepted(project_id, body, key) for _ in range(2)))
        if first != again:
            self.told.faults.append(f"one key made two tasks: {first} and {again}")

    async def _cancel(self, project_id: str) -> None:
        task_id = await self._submit(project_id)
        await self._a_while()
        answer = await self.ask("cancel", project_id, "POST", f"/v1/tasks/{task_id}/cancel", 202, 409)
        if answer.status_code == 202:
            self.told.to_be_cancelled.add(task_id)

    async def _pause_and_resume(self, project_id: str) -> None:
        task_id = await self._submit(project_id)
        await self._a_while()
        answer = await self.ask("pause", project_id, "POST", f"/v1/tasks/{task_id}/pause", 202, 409)
        if answer.status_code == 202:
            await self._a_while()
            await self.ask("resume", project_id, "POST", f"/v1/tasks/{task_id}/resume", 202, 409)

    async def _talk(self, project_id: str) -> None:
        task_id = await self._submit(project_id)
        await self._a_while()
        body = {"text": "Mind the last line.", "delivery": self._random.choice(("steer", "queue", "interrupt"))}
        await self.ask("message", project_id, "POST", f"/v1/tasks/{task_id}/messages", 202, 409, json=body)

    async def _ask_for_attempts(self, project_id: str) -> None:
        await self._submit(project_id, self._task(attempts=2))

    async def _run_out_of_tokens(self, project_id: str) -> None:
        await self._submit(project_id, self._task(num_lines=_MOST_STEPS, limits={"max_tokens": 200}))

    async def _raise_a_limit(self, project_id: str) -> None:
        task = self._task(num_lines=_MOST_STEPS, limits={"max_steps": 2}, on_limit="ask")
        task_id = await self._submit(project_id, task)
        if await self._seen(project_id, task_id, "run.parked"):
            change = {"limits": {"max_steps": 40}}
            await self.ask("change", project_id, "PATCH", f"/v1/tasks/{task_id}", 200, json=change)

    async def _delete(self, project_id: str) -> None:
        task_id = await self._submit(project_id)
        if await self._seen(project_id, task_id, "task.finished"):
            self.told.deleted.add(task_id)
            await self.ask("delete", project_id, "DELETE", f"/v1/tasks/{task_id}", 204)

    # How.

    def _task(self, *, num_lines: int | None = None, **more: Any) -> dict[str, Any]:
        number = self._random.randint(1, 4) if num_lines is None else num_lines
        (priority,) = self._random.choices(("low", "normal", "high"), (0.2, 0.6, 0.2))
        return {
            "repository": self._repository,
            "problem_statement": f"Write {number} lines.",
            "priority": priority,
            "labels": {"lines": str(number)},
            **more,
        }

    async def _submit(self, project_id: str, task: dict[str, Any] | None = None, *, key: str | None = None) -> str:
        headers = {"Idempotency-Key": key} if key else {}
        body = task or self._task()
        answer = await self.ask("submit", project_id, "POST", "/v1/tasks", 202, json=body, headers=headers)
        answer.raise_for_status()
        return self._accepted(project_id, answer)

    async def _until_accepted(self, project_id: str, task: dict[str, Any], key: str) -> str:
        """A request that is still being answered is sent again."""
        headers = {"Idempotency-Key": key}
        while True:
            answer = await self.ask("submit", project_id, "POST", "/v1/tasks", 202, 409, json=task, headers=headers)
            if answer.status_code != 409:
                answer.raise_for_status()
                return self._accepted(project_id, answer)
            await asyncio.sleep(0.1)

    def _accepted(self, project_id: str, answer: httpx.Response) -> str:
        task_id = str(answer.json()["id"])
        self.told.accepted[task_id] = project_id
        self._newest.append(task_id)
        return task_id

    async def _a_while(self) -> None:
        await asyncio.sleep(self._random.expovariate(1 / 3))

    async def _seen(self, project_id: str, task_id: str, kind: str) -> bool:
        """Wait for an event of this type; False where the task ends before."""
        while True:
            async for _, seen in self._stream(project_id, task_id, f"types={kind}"):
                if seen == kind or seen == "task.finished":
                    return seen == kind
            await asyncio.sleep(0.5)

    async def _look_at(self, task_id: str) -> None:
        project_id, last = self.told.accepted[task_id], 0
        while True:
            patience_s = self._random.expovariate(1 / 3)
            with suppress(TimeoutError, httpx.TransportError):
                async with asyncio.timeout(patience_s):
                    async for seq, kind in self._stream(project_id, task_id, f"after={last}"):
                        if seq != last + 1:
                            self.told.faults.append(f"{task_id}: event {seq} came after {last}")
                        last = seq
                        self.told.num_events_seen += 1
                        if kind == "task.finished":
                            return
            if self._random.random() < 0.3 or task_id in self.told.missed:
                return
            await self._a_while()

    async def _stream(self, project_id: str, task_id: str, query: str) -> AsyncIterator[tuple[int, str]]:
        """Sequence number and type of each event; those about the stream itself have none, and are not told."""
        self.told.num_streams += 1
        headers = {"Authorization": f"Bearer {self._keys[project_id]}", "Accept": "text/event-stream"}
        path = f"/v1/tasks/{task_id}/events?{query}"
        async with self._http.stream("GET", path, headers=headers, timeout=_ANSWER_LIMIT_S) as answer:
            if answer.status_code == 404:
                self.told.missed.add(task_id)
            seq = 0
            async for line in answer.aiter_lines():
                if line.startswith("id: "):
                    seq = int(line[4:])
                elif line.startswith("event: ") and seq:
                    yield seq, line[7:]
                    seq = 0


class Operator:
    """Opens projects, and has schedules in one of them."""

    def __init__(self, http: httpx.AsyncClient, key: str, repository: str) -> None:
        self.submitted = set[str]()
        """Tasks that schedules submitted by his hand."""
        self._http = http
        self._key = key
        self._repository = repository
        self._schedules: list[str] = []
        self._project = ""

    async def open(self, project_id: str, receiver: str, **quotas: float) -> str:
        """Make a project that tells ``receiver`` of the end of every task; a key of it."""
        await self._ask("POST", "/v1/projects", {"id": project_id, **quotas})
        hook = {"url": receiver, "events": ["task.finished", "run.parked"]}
        await self._ask("POST", "/v1/webhooks", hook, project_id)
        wanted = {"name": "customers", "scopes": ["tasks:read", "tasks:write"]}
        return str((await self._ask("POST", f"/v1/projects/{project_id}/api_keys", wanted))["secret"])

    async def schedule(self, project_id: str) -> None:
        """Have tasks submitted every minute, in two ways."""
        self._project = project_id
        task = {"repository": self._repository, "problem_statement": "Write 2 lines."}
        for overlap in ("allow", "skip"):
            body = {"name": overlap, "cron": "* * * * *", "overlap": overlap, "task": task}
            self._schedules.append((await self._ask("POST", "/v1/schedules", body, project_id))["id"])

    async def run_schedules(self) -> None:
        for schedule_id in self._schedules:
            task = await self._ask("POST", f"/v1/schedules/{schedule_id}/run", None, self._project)
            self.submitted.add(task["id"])

    async def stop_schedules(self) -> None:
        for schedule_id in self._schedules:
            await self._ask("PATCH", f"/v1/schedules/{schedule_id}", {"enabled": False}, self._project)

    async def raise_tokens(self, project_id: str) -> None:
        await self._ask("PATCH", f"/v1/projects/{project_id}", {"daily_tokens": None})

    async def usage(self) -> dict[str, Usage]:
        """By project, as the service counts it."""
        used = (await self._ask("GET", "/v1/usage?group_by=project", None))["usage"]
        return {str(each["group"]["project"]): Usage.model_validate(each["usage"]) for each in used}

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None, project_id: str = "") -> Any:
        headers = {"Authorization": f"Bearer {self._key}"}
        if project_id:
            headers["Mimo-Project"] = project_id
        answer = await self._http.request(method, path, json=body, headers=headers, timeout=_ANSWER_LIMIT_S)
        answer.raise_for_status()
        return answer.json()
