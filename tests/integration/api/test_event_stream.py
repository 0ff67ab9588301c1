"""The event stream over real HTTP: nothing is lost at a reconnection, and it ends where the task does."""

import asyncio
import json
import socket
import struct
from pathlib import Path

import anyio
import httpx
import httpx_sse
import pytest
from fastapi import FastAPI

from agent.api.app import create_app
from agent.api.schemas import STREAM_NOTES
from agent.cli.client import Client, ServiceUnreachable
from agent.identity import DEFAULT_PROJECT, ROLES
from agent.store.base import Claim, RunResult, Store
from agent.types import Status, StopReason, TaskRequest

from .conftest import Serve

pytestmark = pytest.mark.anyio

TASK = TaskRequest(repository="/repo", problem_statement="add() subtracts")
STREAM = {"Accept": "text/event-stream"}


async def _resolve(path: Path, commit: str) -> str:
    return "c" * 40


def _app(store: Store, heartbeat_s: float = 15.0, num_kept: int = 256) -> FastAPI:
    return create_app(store, _resolve, heartbeat_s=heartbeat_s, num_kept=num_kept)


async def _claim(store: Store) -> Claim:
    claim = await store.claim("worker", 60)
    assert claim is not None
    return claim


async def _note(store: Store, claim: Claim, text: str) -> None:
    await store.append(claim.run_id, claim.generation, "note", {"text": text})


async def _finish(store: Store, claim: Claim) -> None:
    result = RunResult(status=Status.SUCCEEDED, stop_reason=StopReason.FINISHED)
    await store.finish(claim.run_id, claim.generation, result)


async def _read(url: str, headers: dict[str, str], most: int | None = None) -> list[httpx_sse.ServerSentEvent]:
    """The events of one connection, to its end or until there are ``most``."""
    found: list[httpx_sse.ServerSentEvent] = []
    async with (
        httpx.AsyncClient(trust_env=False, timeout=20) as http,
        httpx_sse.aconnect_sse(http, "GET", url, headers=headers) as source,
    ):
        async for event in source.aiter_sse():
            if event.data:
                found.append(event)
            if len(found) == most:
                break
    return found


async def test_a_stream_ends_when_its_readers_key_is_revoked(store: Store, serve: Serve) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(TASK)
    record, key = await store.identities.create_key(
        DEFAULT_PROJECT, "a test", ROLES["viewer"], created_by="a test", expires_at=None
    )
    headers = STREAM | {"Authorization": f"Bearer {key}"}
    app = create_app(store, _resolve, heartbeat_s=0.05, api_key="the operator's own")
    async with serve(app) as url, httpx.AsyncClient(trust_env=False, headers=headers, timeout=60) as http:
        async with http.stream("GET", f"{url}/v1/tasks/{task.id}/events") as stream:
            lines = stream.aiter_lines()
            while await anext(lines) != ": heartbeat":
                pass
            await store.identities.revoke_key(DEFAULT_PROJECT, record.id)
            with anyio.fail_after(120):
                assert {line async for line in lines} <= {"", ": heartbeat"}
        assert (await http.get(f"{url}/v1/tasks/{task.id}/events")).status_code == 401


async def test_stream_tells_what_was_and_what_comes_and_ends_with_the_task(store: Store, serve: Serve) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(TASK)
    claim = await _claim(store)
    async with serve(_app(store)) as url:
        reading = asyncio.ensure_future(_read(f"{url}/v1/tasks/{task.id}/events", STREAM))
        for number in range(5):
            await _note(store, claim, f"{number}: line\u2028separator\x85, \r\n line end")
            await asyncio.sleep(0)
        await _finish(store, claim)
        events = await reading

    stored = await store.of(DEFAULT_PROJECT).events(task.id)
    assert [int(event.id) for event in events] == [event.seq for event in stored]
    assert [event.event for event in events] == [event.type for event in stored]
    assert [json.loads(event.data)["body"] for event in events] == [event.body for event in stored]
    assert events[0].retry is None or events[0].retry == 2000


async def test_stream_begins_with_how_long_to_wait_before_coming_back(store: Store, serve: Serve) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(TASK)
    await store.of(DEFAULT_PROJECT).cancel(task.id)
    async with serve(_app(store)) as url, httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{url}/v1/tasks/{task.id}/events", headers=STREAM)

    assert answer.text.startswith("retry: 2000\n\n")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("by_header", [True, False])
async def test_stream_resumes_at_every_event_without_a_hole(store: Store, serve: Serve, by_header: bool) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(TASK)
    claim = await _claim(store)
    for number in range(4):
        await _note(store, claim, str(number))
    await _finish(store, claim)
    all_seqs = [event.seq for event in await store.of(DEFAULT_PROJECT).events(task.id)]

    async with serve(_app(store)) as url:
        address = f"{url}/v1/tasks/{task.id}/events"
        for seen in all_seqs[:-1]:
            # The header is the newer word: a browser repeats the first address when it comes back.
            query, headers = (
                ("?after=1", {**STREAM, "Last-Event-ID": str(seen)}) if by_header else (f"?after={seen}", STREAM)
            )
            events = await _read(address + query, headers)
            assert [int(event.id) for event in events] == all_seqs[seen:]


async def test_reader_who_saw_the_end_is_told_not_to_come_back(store: Store, serve: Serve) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(TASK)
    await store.of(DEFAULT_PROJECT).cancel(task.id)
    last = (await store.of(DEFAULT_PROJECT).events(task.id))[-1].seq
    async with serve(_app(store)) as url, httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{url}/v1/tasks/{task.id}/events", headers={**STREAM, "Last-Event-ID": str(last)})

    assert answer.status_code == 204


async def test_every_watcher_of_a_task_gets_every_event(store: Store, serve: Serve) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(TASK)
    claim = await _claim(store)
    async with serve(_app(store)) as url:
        address = f"{url}/v1/tasks/{task.id}/events"
        reading = [asyncio.ensure_future(_read(address, STREAM)) for _ in range(20)]
        for number in range(10):
            await _note(store, claim, str(number))
        late = asyncio.ensure_future(_read(f"{address}?after=4", STREAM))
        await _finish(store, claim)
        streams = await asyncio.gather(*reading, late)

    seqs = [event.seq for event in await store.of(DEFAULT_PROJECT).events(task.id)]
    assert [[int(event.id) for event in stream] for stream in streams] == [seqs] * 20 + [seqs[4:]]


async def test_slow_reader_is_told_and_dropped_and_loses_nothing(store: Store, serve: Serve) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(TASK)
    claim = await _claim(store)
    seen: list[httpx_sse.ServerSentEvent] = []
    async with serve(_app(store, num_kept=8)) as url:
        address = f"{url}/v1/tasks/{task.id}/events"
        async with (
            httpx.AsyncClient(trust_env=False, timeout=60) as http,
            httpx_sse.aconnect_sse(http, "GET", address, headers=STREAM) as source,
        ):
            async for event in source.aiter_sse():
                seen.append(event)
                if event.event == "run.claimed":  # It has caught up; now it reads nothing for a while.
                    for number in range(120):
                        await _note(store, claim, f"{number}{'x' * 200_000}")
        last = seen[-2].id
        await _finish(store, claim)
        rest = await _read(address, {**STREAM, "Last-Event-ID": last})

    assert (seen[-1].event, json.loads(seen[-1].data)["after"]) == ("stream.dropped", int(last))
    told = [event for event in [*seen, *rest] if event.data and event.event not in STREAM_NOTES]
    assert [int(event.id) for event in told] == [event.seq for event in await store.of(DEFAULT_PROJECT).events(task.id)]


async def _break_rules(url: str, said: bytes, *, reads: bool) -> str:
    """Say something to the service, and be gone without a word; the status that was answered, where that is read."""
    address = httpx.URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(said)
    await writer.drain()
    status = (await reader.readline()).decode().partition(" ")[2].strip() if reads else ""
    # A reset, as when a machine loses its power, and no orderly end.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return status


async def test_readers_that_keep_to_no_rule_are_refused_or_forgotten_and_harm_nobody(
    store: Store, serve: Serve
) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(TASK)
    claim = await _claim(store)
    head = f"GET /v1/tasks/{task.id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n".encode()
    wrong_ids = (b"-1", b"1e3", b"9" * 40, b"\xff\xfe", b"1, 2", b"NaN", b"0x10", b"9999")
    async with serve(_app(store, heartbeat_s=1.0)) as url:
        reading = asyncio.ensure_future(_read(f"{url}/v1/tasks/{task.id}/events", STREAM))
        refused = [
            await _break_rules(url, head + b"Last-Event-ID: " + wrong + b"\r\n\r\n", reads=True) for wrong in wrong_ids
        ]
        accepted = [
            await _break_rules(url, head + b"\r\n" + after, reads=True)
            for after in (b"", b"GET ", b"\x00" * 5000, head + b"\r\n" + head + b"\r\n")
        ]
        for rubbish in (
            b"",
            head,
            head + b"\r\n",
            b"\x16\x03\x01\x02\x00" * 50,
            b"\r\n" * 1000,
            b"GET / HTTP/9.9\r\n\r\n",
        ):
            for _ in range(5):
                await _break_rules(url, rubbish, reads=False)
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http, asyncio.timeout(120):
            while 'mimo_open_streams{kind="events"} 1.0' not in (await http.get(f"{url}/metrics")).text:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await _note(store, claim, "still heard")
        await _finish(store, claim)
        events = await reading

    assert {status.partition(" ")[0] for status in refused} == {"422"}
    assert {status.partition(" ")[0] for status in accepted} == {"200"}
    assert [int(event.id) for event in events] == [
        event.seq for event in await store.of(DEFAULT_PROJECT).events(task.id)
    ]


async def test_silence_is_filled_with_heartbeats(store: Store, serve: Serve) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(TASK)
    lines: list[str] = []
    async with (
        serve(_app(store, heartbeat_s=0.05)) as url,
        httpx.AsyncClient(trust_env=False) as http,
        http.stream("GET", f"{url}/v1/tasks/{task.id}/events", headers=STREAM) as answer,
    ):
        async for line in answer.aiter_lines():
            lines.append(line)
            if lines.count(": heartbeat") == 2:
                break

    assert lines[0] == "retry: 2000"


async def test_watching_client_survives_a_restart_of_the_service(store: Store, serve: Serve) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(TASK)
    claim = await _claim(store)
    seen: list[int] = []
    reached, ended = anyio.Event(), anyio.Event()

    async def watch(url: str) -> None:
        async with Client(url, reconnect_s=0.05) as client:
            async for event in client.watch(task.id):
                seen.append(event.seq)
                reached.set()
        ended.set()

    async with anyio.create_task_group() as group:
        async with serve(_app(store)) as url:
            group.start_soon(watch, url)
            await reached.wait()
        for number in range(3):
            await _note(store, claim, str(number))
        async with serve(_app(store), port=int(url.rpartition(":")[2])):
            await _note(store, claim, "after")
            await _finish(store, claim)
            await ended.wait()

    assert seen == [event.seq for event in await store.of(DEFAULT_PROJECT).events(task.id)]


async def test_watching_client_says_at_once_that_nobody_is_there(store: Store, serve: Serve) -> None:
    async with serve(_app(store)) as url:
        pass
    async with Client(url) as client:
        with pytest.raises(ServiceUnreachable, match="no service answers"):
            async for _ in client.watch("task_1"):
                pass


async def test_ten_megabytes_are_refused_while_they_still_come(store: Store, serve: Serve) -> None:
    body = json.dumps({"repository": "/repo", "problem_statement": "x" * 10_000_000})
    async with serve(_app(store)) as url, httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(f"{url}/v1/tasks", content=body, headers={"Content-Type": "application/json"})
        alive = await http.get(f"{url}/livez")

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert alive.status_code == 200


async def test_reader_gets_the_types_it_wants_and_the_end(store: Store, serve: Serve) -> None:
    task = await store.of(DEFAULT_PROJECT).submit(TASK)
    claim = await _claim(store)
    for text in ("one", "two"):
        await _note(store, claim, text)
    async with serve(_app(store)) as url, httpx.AsyncClient(trust_env=False) as http:
        events = f"{url}/v1/tasks/{task.id}/events"
        page = (await http.get(events, params={"types": "note,run.claimed", "limit": 1})).json()
        rest = (await http.get(events, params={"types": "note", "after": page["next_after"]})).json()
        nothing = (await http.get(events, params={"types": "of.none"})).json()
        reading = asyncio.ensure_future(_read(f"{events}?types=note", STREAM))
        await _note(store, claim, "three")
        await _finish(store, claim)
        streamed = await reading
        ended = (await http.get(events, params={"types": "note", "after": rest["next_after"]})).json()

    assert [event["type"] for event in page["events"]] == ["run.claimed"]
    assert [event["body"]["text"] for event in rest["events"]] == ["one", "two"]
    assert (rest["ended"], nothing) == (False, {"events": [], "next_after": rest["next_after"], "ended": False})
    assert [event.event for event in streamed] == ["note", "note", "note", "task.finished"]
    assert ([event["body"]["text"] for event in ended["events"]], ended["ended"]) == (["three"], True)
