"""What people tell a task through its page reaches the log."""

import json
import re

import pytest
from playwright.async_api import Page, expect

from agent.store.base import ProjectStore, Store
from agent.types import Event, Status, WaitingOn

from .conftest import Agent, Tab, task

pytestmark = pytest.mark.anyio

_MOST_TABS = 60
"""More than any page has places to stop at."""


async def _said(tasks: ProjectStore, task_id: str, kind: str) -> list[Event]:
    return [event for event in await tasks.events(task_id) if event.type == kind]


async def test_a_message_is_sent_beside_the_page_and_appears_in_it(
    service: str, store: Store, tasks: ProjectStore, tab: Tab
) -> None:
    submitted = await tasks.submit(task())
    await Agent.claims(store)
    page = tab.page
    await page.goto(f"{service}/tasks/{submitted.id}")
    box = page.get_by_label("Message to the agent")
    await box.fill("Use integers only.")
    await page.get_by_label("When it is read").select_option("interrupt")
    await box.press("Control+Enter")

    await expect(page.locator(".entry.asked").last).to_contain_text("Use integers only.")
    await expect(box).to_have_value("")
    [event] = await _said(tasks, submitted.id, "message.added")
    assert (event.body["text"], event.body["delivery"]) == ("Use integers only.", "interrupt")
    assert tab.complaints == []


async def test_a_running_task_is_paused_and_cancelled_after_a_question(
    service: str, store: Store, tasks: ProjectStore, page: Page
) -> None:
    submitted = await tasks.submit(task())
    agent = await Agent.claims(store)
    await agent.log("run.provisioned", {})
    await page.goto(f"{service}/tasks/{submitted.id}")
    await page.get_by_role("button", name="Pause").click()
    await expect(page.locator(".entry.notice").last).to_contain_text("Pausing")
    assert await _said(tasks, submitted.id, "task.paused")

    page.once("dialog", lambda dialog: dialog.dismiss())
    await page.get_by_role("button", name="Cancel").click()
    assert not (await tasks.get(submitted.id)).cancel_requested
    page.once("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.locator("#status")).to_contain_text("ends as soon as")
    assert (await tasks.get(submitted.id)).cancel_requested


@pytest.mark.parametrize(
    ("button", "decision", "scope"),
    [("Allow once", "allow", "once"), ("Allow for this task", "allow", "task"), ("Deny", "deny", "once")],
)
async def test_a_permission_is_decided_in_the_inbox(
    button: str, decision: str, scope: str, service: str, store: Store, tasks: ProjectStore, page: Page
) -> None:
    submitted = await tasks.submit(task())
    await (await Agent.claims(store)).asks("git reset --hard && make")
    await page.goto(f"{service}/tasks")
    await page.get_by_role("link", name=re.compile("Inbox")).click()
    await expect(page.locator(".ask")).to_contain_text("git reset --hard && make")
    await page.get_by_label("What to do instead").fill("Make a branch first.")
    await page.get_by_role("button", name=button).click()

    await expect(page.get_by_role("heading", name="Nothing waits for you")).to_be_visible()
    [event] = await _said(tasks, submitted.id, "approval.decided")
    assert (event.body["decision"], event.body["scope"]) == (decision, scope)
    assert (await tasks.get(submitted.id)).status is Status.QUEUED


async def test_a_command_is_corrected_and_allowed(service: str, store: Store, tasks: ProjectStore, page: Page) -> None:
    submitted = await tasks.submit(task())
    await (await Agent.claims(store)).asks("git reset --hard && make")
    await page.goto(f"{service}/tasks/{submitted.id}")
    await page.get_by_text("Change the command first").click()
    await expect(page.get_by_label("Command to run instead")).to_have_value("git reset --hard && make")
    await page.get_by_label("Command to run instead").fill("git stash\nmake")
    await page.get_by_role("button", name="Allow this instead").click()

    await expect(page.locator("#status [role=status]")).to_contain_text("queued")
    [event] = await _said(tasks, submitted.id, "approval.decided")
    assert (event.body["decision"], event.body["scope"]) == ("allow", "once")
    assert json.loads(event.body["edited_args"]) == {"command": "git stash\nmake"}


async def test_a_permission_is_asked_on_the_page_that_is_open(
    service: str, store: Store, tasks: ProjectStore, page: Page
) -> None:
    submitted = await tasks.submit(task())
    agent = await Agent.claims(store)
    await page.goto(f"{service}/tasks/{submitted.id}")
    await expect(page.locator(".ask")).to_have_count(0)
    await agent.asks("git reset --hard && make")

    await page.locator(".ask").get_by_role("button", name="Allow once").click()

    await expect(page.locator("#status [role=status]")).to_contain_text("queued")


async def test_keys_alone_submit_a_task_and_allow_what_it_asks_for(
    service: str, store: Store, tasks: ProjectStore, page: Page
) -> None:
    async def go_to(name: str) -> None:
        """By the Tab key, from where the focus is."""
        wanted = page.get_by_role("link", name=name).or_(page.get_by_role("button", name=name))
        wanted = wanted.or_(page.get_by_label(name)).first
        await wanted.wait_for()
        for _ in range(_MOST_TABS):
            if await wanted.evaluate("element => element === document.activeElement"):
                return
            await page.keyboard.press("Tab")
        pytest.fail(f"the Tab key does not come to {name}")

    await page.goto(f"{service}/tasks")
    await go_to("New task")
    await page.keyboard.press("Enter")
    for label, words in {"What is wrong": "add() subtracts", "Repository": "/srv/calculator"}.items():
        await go_to(label)
        await page.keyboard.type(words)
    await go_to("Submit task")
    await page.keyboard.press("Enter")
    await expect(page.locator("#status [role=status]")).to_contain_text("queued")
    agent = await Agent.claims(store)
    await go_to("Message to the agent")
    await agent.asks("git reset --hard && make")
    await expect(page.locator(".ask")).to_contain_text("git reset --hard && make")
    await expect(page.get_by_label("Message to the agent")).to_be_focused()
    await go_to("Allow once")
    await page.keyboard.press("Enter")

    await expect(page.locator("#status [role=status]")).to_contain_text("queued")
    [submitted] = (await tasks.list_tasks()).tasks
    [event] = await _said(tasks, submitted.id, "approval.decided")
    assert (event.body["decision"], event.body["scope"]) == ("allow", "once")


async def test_a_form_is_sent_once_however_often_it_is_pressed(service: str, tasks: ProjectStore, page: Page) -> None:
    await page.goto(f"{service}/tasks/new")
    await page.get_by_label("What is wrong").fill("add() subtracts")
    await page.get_by_label("Repository").fill("/srv/calculator")
    submit = page.get_by_role("button", name="Submit task")
    await page.context.set_offline(True)
    await submit.click()
    await expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    await expect(page.get_by_label("What is wrong")).to_have_value("add() subtracts")

    await page.context.set_offline(False)
    await submit.dblclick()
    await page.wait_for_url("**/tasks/task_*")
    await page.go_back()
    await submit.click()
    await page.wait_for_url("**/tasks/task_*")
    assert len((await tasks.list_tasks()).tasks) == 1

    await page.go_back()
    await page.get_by_label("What is wrong").fill("sub() adds")
    await submit.click()
    await page.wait_for_url("**/tasks/task_*")
    problems = [task.request.problem_statement for task in (await tasks.list_tasks()).tasks]
    assert problems == ["sub() adds", "add() subtracts"]


async def test_a_question_is_answered(service: str, store: Store, tasks: ProjectStore, page: Page) -> None:
    submitted = await tasks.submit(task())
    agent = await Agent.claims(store)
    question = {"step": 1, "question_id": "q", "text": "Python **3.11** or 3.12?", "options": ["3.11", "3.12"]}
    await agent.log("question.asked", question)
    await store.park(agent.claim.run_id, agent.claim.generation, Status.WAITING, WaitingOn.QUESTION, {})
    await page.goto(f"{service}/tasks/{submitted.id}")

    await page.get_by_role("button", name="3.12").click()

    await expect(page.locator("#status [role=status]")).to_contain_text("queued")
    [event] = await _said(tasks, submitted.id, "message.added")
    assert event.body["text"] == "3.12"


async def test_a_limit_is_raised(service: str, store: Store, tasks: ProjectStore, page: Page) -> None:
    submitted = await tasks.submit(task(limits={"max_steps": 5}))
    agent = await Agent.claims(store)
    reached = {"stop_reason": "step_limit", "detail": "5 steps were taken."}
    await store.park(agent.claim.run_id, agent.claim.generation, Status.WAITING, WaitingOn.BUDGET, reached)
    await page.goto(f"{service}/tasks/{submitted.id}")

    await page.get_by_role("button", name="Raise it and go on").click()

    await expect(page.locator("#status [role=status]")).to_contain_text("queued")
    [event] = await _said(tasks, submitted.id, "budget.granted")
    assert event.body == {"max_steps": 10}


async def test_title_labels_and_priority_are_changed(service: str, tasks: ProjectStore, page: Page) -> None:
    submitted = await tasks.submit(task(labels={"team": "core"}))
    await page.goto(f"{service}/tasks/{submitted.id}/details")
    await page.get_by_label("Title").fill("Make `add` add")
    await page.get_by_label("Labels").fill("team=core, urgent")
    await page.get_by_label("Priority").select_option("high")
    await page.get_by_role("button", name="Save").click()

    await expect(page.get_by_role("heading", level=1)).to_have_text("Make add add")
    changed = await tasks.get(submitted.id)
    assert (changed.labels, changed.priority) == ({"team": "core", "urgent": ""}, "high")


async def test_words_that_the_agent_has_not_read_are_taken_back(
    service: str, store: Store, tasks: ProjectStore, page: Page
) -> None:
    submitted = await tasks.submit(task())
    agent = await Agent.claims(store)
    await page.goto(f"{service}/tasks/{submitted.id}")
    await page.get_by_label("Message to the agent").fill("Use Python 2.")
    await page.get_by_role("button", name="Send").click()

    await page.get_by_role("button", name="Take back: Use Python 2.").click()
    await expect(page.get_by_role("button", name="Take back")).to_have_count(0)
    await page.get_by_label("Message to the agent").fill("Use Python 3.")
    await page.get_by_role("button", name="Send").click()
    await expect(page.get_by_role("button", name="Take back: Use Python 3.")).to_be_visible()
    [read] = [
        word for word in await _said(tasks, submitted.id, "message.added") if word.body["text"] == "Use Python 3."
    ]
    body = {"step": 1, "message_id": read.body["message_id"], "text": "Use Python 3."}
    await agent.log("message.taken", body)

    await expect(page.get_by_role("button", name="Take back")).to_have_count(0)
    assert len(await _said(tasks, submitted.id, "message.removed")) == 1
