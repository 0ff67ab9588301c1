"""Webhooks over real HTTP, checked by the Standard Webhooks library that receivers use."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from sqlalchemy import update
from standardwebhooks.webhooks import Webhook as Receiver
from standardwebhooks.webhooks import WebhookVerificationError

from agent.api.app import create_app
from agent.integrations.webhooks import Sender
from agent.store.base import RunResult, Store
from agent.store.open import open_store
from agent.store.tables import webhooks
from agent.store.webhooks import Webhooks
from agent.types import Status, TaskRequest

from .conftest import Serve

pytestmark = pytest.mark.anyio

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
TASK = TaskRequest(repository="/repo", problem_statement="add() subtracts")


class Clock:
    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Service:
    """Somebody else's service that is told of events."""

    status: int = 200
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    @property
    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/hook")
        async def hook(request: Request) -> Response:
            self.received.append((dict(request.headers), await request.body()))
            return Response(status_code=self.status, headers={"Location": "http://127.0.0.1:1/elsewhere"})

        return app


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    async with open_store(f"sqlite:///{tmp_path}/mimo.db", clock=clock) as opened:
        yield opened


@pytest.fixture
async def http(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    async def resolve(path: Path, commit: str) -> str:
        return "c" * 40

    transport = httpx.ASGITransport(create_app(store, resolve))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
async def service(serve: Serve) -> AsyncIterator[tuple[Service, str]]:
    told = Service()
    async with serve(told.app) as url:
        yield told, f"{url}/hook"


async def _finish_a_task(store: Store) -> str:
    task = await store.of("default").submit(TASK)
    claim = await store.claim("worker", 60)
    assert claim is not None
    await store.finish(claim.run_id, claim.generation, RunResult(status=Status.SUCCEEDED))
    return task.id


async def _hook(http: httpx.AsyncClient, url: str, *events: str) -> dict[str, Any]:
    answer = await http.post("/v1/webhooks", json={"url": url, "events": events or ["task.finished"]})
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


async def _send(store: Store) -> int:
    return await Sender(Webhooks(store.database), allowed=LOOPBACK).drain()


async def test_service_is_told_once_and_can_check_who_told_it(
    store: Store, http: httpx.AsyncClient, service: tuple[Service, str]
) -> None:
    told, url = service
    created = await _hook(http, url)
    task_id = await _finish_a_task(store)

    assert [await _send(store), await _send(store)] == [1, 0]

    ((headers, body),) = told.received
    message = Receiver(created["secret"]).verify(body, headers)
    last = (await store.of("default").events(task_id))[-1]
    assert message["type"] == "task.finished"
    assert message["data"] == {"project_id": "default", "task_id": task_id, "run_id": None, "seq": last.seq}
    with pytest.raises(WebhookVerificationError):
        Receiver(created["secret"]).verify(body + b" ", headers)


async def test_only_events_that_were_asked_for_are_told(
    store: Store, http: httpx.AsyncClient, service: tuple[Service, str]
) -> None:
    told, url = service
    created = await _hook(http, url, "task.submitted", "run.finished")
    await _finish_a_task(store)
    await _send(store)

    found = [Receiver(created["secret"]).verify(body, headers)["type"] for headers, body in told.received]
    assert sorted(found) == ["run.finished", "task.submitted"]


async def test_failing_service_is_told_again_for_three_days_and_everything_is_in_the_log(
    store: Store, http: httpx.AsyncClient, service: tuple[Service, str], clock: Clock
) -> None:
    told, url = service
    told.status = 503
    address = f"/v1/webhooks/{(await _hook(http, url))['webhook']['id']}/deliveries"
    await _finish_a_task(store)

    for _ in range(30):
        await _send(store)
        (delivery,) = (await http.get(address)).json()["deliveries"]
        if delivery["status"] != "pending":
            break
        clock.ahead = max(clock.ahead, datetime.fromisoformat(delivery["due"]) - datetime.now(UTC))
        clock.ahead += timedelta(seconds=1)

    assert delivery["status"] == "failed"
    assert delivery["due"] is None
    assert {entry["status"] for entry in delivery["tries"]} == {503}
    assert len(delivery["tries"]) == len(told.received) > 10
    assert timedelta(days=2) < clock.ahead <= timedelta(days=3, minutes=1)
    assert len({headers["webhook-id"] for headers, _ in told.received}) == 1


async def test_message_is_said_again_on_demand(
    store: Store, http: httpx.AsyncClient, service: tuple[Service, str]
) -> None:
    told, url = service
    address = f"/v1/webhooks/{(await _hook(http, url))['webhook']['id']}/deliveries"
    await _finish_a_task(store)
    await _send(store)
    (delivery,) = (await http.get(address)).json()["deliveries"]

    answer = await http.post(f"{address}/{delivery['id']}/redeliver")
    await _send(store)

    assert answer.status_code == 202
    assert [headers["webhook-id"] for headers, _ in told.received] == [delivery["id"]] * 2
    assert (await http.get(address)).json()["deliveries"][0]["status"] == "delivered"


async def test_service_that_is_gone_hears_nothing_more(
    store: Store, http: httpx.AsyncClient, service: tuple[Service, str]
) -> None:
    told, url = service
    told.status = 410
    webhook_id = (await _hook(http, url))["webhook"]["id"]
    await _finish_a_task(store)
    await _send(store)
    await _finish_a_task(store)
    await _send(store)

    assert len(told.received) == 1
    assert (await http.get(f"/v1/webhooks/{webhook_id}")).json()["enabled"] is False


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/hook",
        "https://localhost:9/hook",
        "https://[::1]/hook",
        "https://[::ffff:10.0.0.1]/hook",
        "https://[64:ff9b::a00:1]/hook",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/hook",
        "https://100.64.0.1/hook",
        "https://0.0.0.0/hook",
        "https://224.0.0.1/hook",
        "https://2130706433/hook",
    ],
)
async def test_nothing_is_sent_into_private_networks(store: Store, http: httpx.AsyncClient, url: str) -> None:
    webhook_id = (await _hook(http, url))["webhook"]["id"]
    await _finish_a_task(store)

    await Sender(Webhooks(store.database)).drain()

    (delivery,) = (await http.get(f"/v1/webhooks/{webhook_id}/deliveries")).json()["deliveries"]
    assert delivery["tries"][0]["status"] is None
    assert "ForbiddenAddress" in delivery["tries"][0]["error"]


async def test_what_went_wrong_does_not_tell_which_names_the_private_network_has(
    store: Store, http: httpx.AsyncClient
) -> None:
    hosts = ("localhost", "nobody.localdomain.invalid")
    hooks = [(await _hook(http, f"https://{host}/hook"))["webhook"]["id"] for host in hosts]
    await _finish_a_task(store)

    await Sender(Webhooks(store.database)).drain()

    errors = []
    for host, webhook_id in zip(hosts, hooks, strict=True):
        (delivery,) = (await http.get(f"/v1/webhooks/{webhook_id}/deliveries")).json()["deliveries"]
        errors.append(delivery["tries"][0]["error"].replace(host, "HOST"))
    assert errors[0] == errors[1]


async def test_redirect_is_not_followed(store: Store, http: httpx.AsyncClient, service: tuple[Service, str]) -> None:
    told, url = service
    told.status = 307
    webhook_id = (await _hook(http, url))["webhook"]["id"]
    await _finish_a_task(store)
    await _send(store)

    (delivery,) = (await http.get(f"/v1/webhooks/{webhook_id}/deliveries")).json()["deliveries"]
    assert (delivery["status"], delivery["tries"][0]["status"]) == ("pending", 307)


async def test_two_senders_share_the_work(store: Store, http: httpx.AsyncClient, service: tuple[Service, str]) -> None:
    told, url = service
    await _hook(http, url)
    for _ in range(10):
        await _finish_a_task(store)

    sent = await asyncio.gather(_send(store), _send(store))

    assert sum(sent) == len(told.received) == len({headers["webhook-id"] for headers, _ in told.received}) == 10


async def test_webhook_is_changed_and_forgotten(store: Store, http: httpx.AsyncClient) -> None:
    created = await _hook(http, "https://example.org/hook")
    address = f"/v1/webhooks/{created['webhook']['id']}"

    changed = await http.patch(address, json={"events": ["run.finished", "run.finished"], "enabled": False})
    listed = (await http.get("/v1/webhooks")).json()["webhooks"]
    gone = [(await http.delete(address)).status_code, (await http.get(address)).status_code]

    assert (changed.json()["events"], changed.json()["enabled"]) == (["run.finished"], False)
    assert listed == [changed.json()]
    assert gone == [204, 404]
    assert created["secret"] not in changed.text


@pytest.mark.parametrize("url", ["ftp://example.org/x", "example.org", "https://", "https://a:b@example.org/", "x" * 9])
async def test_unusable_address_is_pointed_at(http: httpx.AsyncClient, url: str) -> None:
    answer = await http.post("/v1/webhooks", json={"url": url})

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/url")


async def test_a_service_that_does_not_answer_keeps_nobody_from_being_told(
    store: Store, http: httpx.AsyncClient, serve: Serve
) -> None:
    heard, over = asyncio.Event(), asyncio.Event()
    silent, other = FastAPI(), FastAPI()

    @silent.post("/hook")
    async def wait() -> None:
        await over.wait()

    @other.post("/hook")
    async def hear() -> None:
        heard.set()

    async with serve(silent) as of_silent, serve(other) as of_other:
        await _hook(http, f"{of_silent}/hook")
        for _ in range(20):
            await _finish_a_task(store)
        await _hook(http, f"{of_other}/hook")
        await _finish_a_task(store)
        sending = asyncio.create_task(Sender(Webhooks(store.database), allowed=LOOPBACK, timeout_s=600).run())
        async with asyncio.timeout(120):
            await heard.wait()
        sending.cancel()
        await asyncio.wait([sending])
        over.set()


async def test_a_secret_that_cannot_be_opened_keeps_nobody_from_being_told(
    store: Store, http: httpx.AsyncClient, service: tuple[Service, str]
) -> None:
    told, url = service
    sealed = (await _hook(http, url))["webhook"]["id"]
    async with store.database.writing() as transaction:
        await transaction.db.execute(update(webhooks).values(sealed=True))
    await _hook(http, url)
    await _finish_a_task(store)

    assert await _send(store) == 2

    assert len(told.received) == 1
    (delivery,) = (await http.get(f"/v1/webhooks/{sealed}/deliveries")).json()["deliveries"]
    assert (delivery["status"], len(delivery["tries"])) == ("pending", 1)
    assert "MIMO_SECRETS_KEY" in delivery["tries"][0]["error"]
