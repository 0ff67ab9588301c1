"""A task's page while the task runs: nothing is missed, and the page stays usable."""

from pathlib import Path

import pytest
from playwright.async_api import Page, expect
from sqlalchemy import create_engine, insert, update

from agent.model import Delta
from agent.orchestrator.draft import Draft
from agent.store import tables
from agent.store.base import ProjectStore, Store

from .conftest import WAIT_MS, Agent, Tab, task
from .proxy import Proxy, Weather

pytestmark = pytest.mark.anyio

SILENT = {"step.completed", "run.provisioned", "run.finished", "run.requeued", "run.resumed", "message.taken"}

SHOWN = "() => Array.from(document.querySelectorAll('.entry'), (entry) => Number(entry.dataset.seq))"


async def _wait_for(page: Page, seq: int) -> None:
    await page.locator(f'.entry[data-seq="{seq}"]').wait_for(state="attached", timeout=WAIT_MS)


async def _logged(tasks: ProjectStore, task_id: str) -> list[int]:
    return [event.seq for event in await tasks.events(task_id) if event.type not in SILENT]


async def test_a_task_is_submitted_watched_to_its_end_and_its_patch_read(
    service: str, store: Store, tasks: ProjectStore, tab: Tab
) -> None:
    page = tab.page
    await page.goto(f"{service}/")
    await page.get_by_role("link", name="New task").click()
    await page.get_by_label("What is wrong, or what do you want?").fill("add() subtracts\n\nSee `calc.py`.")
    await page.get_by_label("Repository").fill("/srv/calculator")
    await page.get_by_label("Checks").fill("pytest -q")
    await page.get_by_role("button", name="Submit task").click()
    status = page.locator("#status [role=status]")
    await expect(status).to_contain_text("queued")

    agent = await Agent.claims(store)
    await agent.does("cat calc.py", "def add(a, b):\n    return a - b", thought="The minus is wrong.")
    await expect(page.locator(".entry.called")).to_contain_text("cat calc.py")
    await expect(page.locator(".entry.answered pre")).to_contain_text("return a - b")
    await expect(page.locator(".thought .pre")).not_to_be_visible()
    await page.locator(".thought summary").click()
    await expect(page.locator(".thought .pre")).to_have_text("The minus is wrong.")
    await agent.finishes()

    await expect(status).to_contain_text("verified")
    await expect(page.locator("#say")).to_have_count(0)
    await page.get_by_role("link", name="Changes").click()
    await expect(page.locator("tr.added")).to_contain_text("return a + b")
    await page.get_by_role("link", name="Verdict").click()
    await expect(page.locator(".evidence")).to_contain_text("pytest -q")
    assert tab.complaints == []


@pytest.mark.parametrize("weather", [Weather.CUT, Weather.BAD_GATEWAY])
async def test_a_lost_connection_costs_no_event(
    weather: Weather, service: str, store: Store, tasks: ProjectStore, page: Page
) -> None:
    submitted = await tasks.submit(task())
    agent = await Agent.claims(store)
    proxy = Proxy(service)
    async with proxy.running() as url:
        await page.goto(f"{url}/tasks/{submitted.id}")
        await _wait_for(page, await agent.log("note", {"text": "before"}))

        proxy.turn(weather)
        await expect(page.locator("#connection")).to_contain_text("connection is lost")
        for number in range(120):
            await agent.log("note", {"text": f"meanwhile {number}"})
        await proxy.turned_away.wait()
        proxy.turn(Weather.FINE)
        await agent.finishes()

        await _wait_for(page, (await tasks.get(submitted.id)).last_seq)
        assert await page.evaluate(SHOWN) == await _logged(tasks, submitted.id)
        await expect(page.locator("#connection")).to_be_empty()


async def test_a_machine_without_network_is_told_and_catches_up(
    service: str, store: Store, tasks: ProjectStore, page: Page
) -> None:
    submitted = await tasks.submit(task())
    agent = await Agent.claims(store)
    await page.goto(f"{service}/tasks/{submitted.id}")
    await _wait_for(page, await agent.log("note", {"text": "before"}))
    await page.context.set_offline(True)
    await expect(page.locator("#connection")).to_contain_text("connection is lost")
    await agent.log("note", {"text": "meanwhile"})
    await page.get_by_label("Message to the agent").fill("hello")
    await page.get_by_role("button", name="Send").click()
    await expect(page.get_by_text("It could not be sent; try again.")).to_be_visible()
    await page.context.set_offline(False)
    await _wait_for(page, await agent.log("note", {"text": "after"}))
    last = (await tasks.get(submitted.id)).last_seq
    await page.get_by_role("button", name="Send").click()
    await _wait_for(page, last + 1)

    await expect(page.get_by_label("Message to the agent")).to_have_value("")
    await expect(page.locator("#connection")).to_be_empty()
    assert await page.evaluate(SHOWN) == await _logged(tasks, submitted.id)


async def test_a_page_opened_again_shows_the_same(service: str, store: Store, tasks: ProjectStore, page: Page) -> None:
    submitted = await tasks.submit(task())
    agent = await Agent.claims(store)
    for number in range(60):
        await agent.does(f"echo {number}", str(number))
    await agent.finishes()

    for _ in range(2):
        await page.goto(f"{service}/tasks/{submitted.id}")
        await _wait_for(page, (await tasks.get(submitted.id)).last_seq)
        assert await page.evaluate(SHOWN) == await _logged(tasks, submitted.id)


async def test_one_attempt_can_be_watched_alone(service: str, store: Store, tasks: ProjectStore, page: Page) -> None:
    submitted = await tasks.submit(task(attempts=2))
    first, second = [await Agent.claims(store) for _ in range(2)]
    await first.does("echo first", "first")
    await page.goto(f"{service}/tasks/{submitted.id}?run={second.claim.run_id}")
    await second.does("echo second", "second")

    await expect(page.locator(".entry.called")).to_have_text(["bash echo second"], use_inner_text=True)


async def test_what_the_model_writes_is_shown_until_its_answer_is(
    service: str, store: Store, tasks: ProjectStore, tab: Tab
) -> None:
    page, submitted = tab.page, await tasks.submit(task())
    agent = await Agent.claims(store)
    draft = Draft(store.drafts, submitted.id, agent.claim.run_id)
    writing = page.locator("#writing")
    await page.goto(f"{service}/tasks/{submitted.id}")
    draft.hear(1, Delta("reasoning", "The minus "))
    await expect(writing).to_have_text("The minus")
    draft.hear(1, Delta("reasoning", "<is> wrong."))
    await expect(writing).to_have_text("The minus <is> wrong.")
    draft.hear(1, Delta("restart"))
    draft.hear(1, Delta("reasoning", "Once more."))
    await expect(writing).to_have_text("Once more.")
    await agent.does("cat calc.py", "return a - b")

    await expect(page.locator(".entry.called")).to_contain_text("cat calc.py")
    await expect(writing).to_be_empty()
    assert tab.complaints == []


WATCH_TURNS = """
() => {
  window.turns = [];
  new MutationObserver((records) => {
    let added = 0;
    for (const record of records) for (const chunk of record.addedNodes) added += chunk.childElementCount;
    window.turns.push(added);
  }).observe(document.getElementById("log"), { childList: true });
}
"""


async def test_ten_thousand_events_come_in_small_turns(
    service: str,
    store: Store,
    tasks: ProjectStore,
    page: Page,
    tmp_path: Path,
) -> None:
    submitted = await tasks.submit(task())
    agent = await Agent.claims(store)
    await agent.does("make", "ok\n" * 20, thought="Let me think about that. " * 20)
    await page.goto(f"{service}/tasks/{submitted.id}")
    await page.evaluate(WATCH_TURNS)

    last = _multiply(tmp_path / "mimo.db", submitted.id, 10_000)
    await agent.log("note", {"text": "wakes those who wait"})

    await _wait_for(page, last)
    assert await page.evaluate(SHOWN) == [
        event.seq for event in await tasks.events(submitted.id, limit=20_000) if event.type not in SILENT
    ]
    # Between two turns the browser scrolls, types and paints.
    assert max(await page.evaluate("window.turns")) <= 50


def _multiply(database: Path, task_id: str, num_events: int) -> int:
    """Repeat the task's last four events until there are so many; the last one's number. One by one is too slow."""
    engine = create_engine(f"sqlite:///{database}")
    with engine.begin() as db:
        rows = db.execute(tables.events.select().order_by(tables.events.c.seq)).mappings().all()
        step = [row for row in rows if row["type"] in ("step.message", "tool.intent", "tool.completed")]
        seqs = range(len(rows) + 1, num_events + 1)
        db.execute(insert(tables.events), [{**step[seq % len(step)], "seq": seq} for seq in seqs])
        db.execute(update(tables.tasks).where(tables.tasks.c.task_id == task_id).values(last_seq=num_events))
    engine.dispose()
    return num_events
