"""Every page: nobody is shut out, nothing is loaded from elsewhere, nothing foreign is run."""

import re
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, Page, expect

from agent.identity import DEFAULT_PROJECT
from agent.store.base import ProjectStore, Store
from agent.store.mcp_servers import McpServerSettings, ProjectMcpServers
from agent.store.repos import Repos, RepoSettings
from agent.store.schedules import Schedules
from agent.store.skills import ProjectSkills, SkillSettings
from agent.types import VerdictKind

from .conftest import WAIT_MS, Agent, Tab, task

pytestmark = pytest.mark.anyio

AXE = Path(__file__).parent / "axe" / "axe.min.js"
FIND = "async () => (await axe.run()).violations.map((found) => [found.id, found.nodes.map((node) => node.html)])"


@pytest.fixture
async def pages(service: str, guarded: str, store: Store, tasks: ProjectStore) -> list[str]:
    """Addresses of every kind of page, each with something on it."""
    ended = await tasks.submit(task(attempts=2, labels={"team": "core"}, checks=[{"command": "pytest -q"}]))
    for kind in (VerdictKind.REGRESSED, VerdictKind.VERIFIED):
        agent = await Agent.claims(store)
        await agent.does("make\ntest", "line\n" * 30, says="Some **words** and `code`.")
        await agent.finishes(kind)
    running = await tasks.submit(task("Parser crashes"))
    agent = await Agent.claims(store)
    await agent.does("ls", "a\nb")
    waiting = await tasks.submit(task("wants to clean up"))
    await (await Agent.claims(store)).asks("git clean -fdx && make")
    await tasks.submit(task("waits in the queue"))
    skill = SkillSettings(description="before a release", text="Ask Ada.")
    await ProjectSkills(store.database).create(DEFAULT_PROJECT, "release", skill, updated_by="test")
    server = McpServerSettings(url="https://tracker.example/mcp", headers={"X-Team": "web"})
    await ProjectMcpServers(store.database).create(DEFAULT_PROJECT, "tracker", server, updated_by="test")
    schedule = await Schedules(store.database).create(
        DEFAULT_PROJECT,
        name="nightly",
        cron="30 2 * * *",
        time_zone="UTC",
        task=task(),
        any_path=True,
        overlap="skip",
        enabled=True,
        created_by="test",
    )
    one = [f"/tasks/{ended.id}{part}" for part in ("", "/changes", "/verdict", "/attempts", "/details")]
    others = ["/tasks", "/tasks?status=failed", "/tasks/new", "/approvals", "/usage", "/settings"]
    others += ["/settings/skills/release", "/settings/mcp_servers/tracker"]
    others += ["/settings/schedules", f"/settings/schedules/{schedule.id}", "/tasks/x"]
    return [
        f"{guarded}/sign-in",
        *(service + path for path in [*one, f"/tasks/{running.id}", f"/tasks/{waiting.id}", *others]),
    ]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
async def test_every_page_can_be_read_and_used_by_all(
    scheme: str, width: int, pages: list[str], chromium: Browser
) -> None:
    # axe itself is a script that the pages' policy would refuse.
    context = await chromium.new_context(
        color_scheme="dark" if scheme == "dark" else "light",
        viewport={"width": width, "height": 900},
        bypass_csp=True,
        reduced_motion="reduce",
    )
    page = await context.new_page()
    page.set_default_timeout(WAIT_MS)
    found = {}
    for url in pages:
        await page.goto(url)
        await page.add_script_tag(path=AXE)
        violations = await page.evaluate(FIND)
        wide = await page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        found[url] = violations + (["wider than the screen"] if wide else [])
    await context.close()

    assert {url: wrong for url, wrong in found.items() if wrong} == {}


async def test_no_page_says_anything_in_the_console(pages: list[str], tab: Tab) -> None:
    sign_in, *others, _ = pages  # The last one is not found, which the console says of any.
    await tab.page.goto(sign_in)
    for url in others:
        async with tab.page.expect_response("**/approvals/count"):
            await tab.page.goto(url)

    assert tab.complaints == []


async def test_every_page_forbids_what_is_not_its_own(pages: list[str]) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        for url in pages:
            answer = await http.get(url)
            assert (
                "default-src 'none'; script-src 'self'; style-src 'self'" in answer.headers["content-security-policy"]
            )
            assert not re.search(r"<script>|<style|\sstyle=|\son\w+=|(src|href|action)=.?https?://", answer.text), url


HOSTILE = "<script>window.run = 1</script><img src=x onerror='window.run = 1'>\x1b[31mred\x1b[0m \u202etxt.exe"


async def test_what_is_hostile_is_shown_and_not_run(service: str, store: Store, tasks: ProjectStore, tab: Tab) -> None:
    submitted = await tasks.submit(task(HOSTILE, repository=f"/srv/{HOSTILE}", labels={HOSTILE: HOSTILE}))
    agent = await Agent.claims(store)
    await agent.does(HOSTILE, HOSTILE, thought=HOSTILE, says=f"{HOSTILE} [link](javascript:run=1) ![image](/x)")
    await agent.log("unknown.event", {HOSTILE: HOSTILE})
    name = HOSTILE.replace("\x1b", "").replace("/", "")
    patch = (
        f"diff --git a/{name} b/{name}\nnew file mode 100644\n--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+{HOSTILE}\n"
    )
    await agent.finishes(patch=patch)

    page = tab.page
    for path in ("", "/changes", "/attempts", "/details", "/verdict"):
        await page.goto(f"{service}/tasks/{submitted.id}{path}")
        await expect(page.locator("h1")).to_contain_text("<script>window.run = 1</script>")
        await expect(page.locator("h1")).to_contain_text("red ⟨202e⟩txt.exe")
        assert await page.evaluate("[window.run, document.querySelectorAll('main script, main img').length]") == [
            None,
            0,
        ]
    for path in ("/tasks", "/usage", f"/tasks/new?like={submitted.id}"):
        await page.goto(service + path)
        assert await page.evaluate("[window.run, document.querySelectorAll('main script, main img').length]") == [
            None,
            0,
        ]
    assert tab.complaints == []


async def test_the_theme_is_kept(service: str, page: Page) -> None:
    await page.goto(f"{service}/tasks")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(ground)
    await page.get_by_role("button", name="Switch between light and dark").click()
    dark = await page.evaluate(ground)
    await page.goto(f"{service}/usage")

    assert await page.evaluate(ground) == dark != light


async def test_the_keyboard_reaches_the_content_first(service: str, page: Page) -> None:
    await page.goto(f"{service}/tasks")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")

    assert await page.evaluate("document.activeElement.id") == "main"


async def test_the_list_follows_without_being_asked(
    service: str, store: Store, tasks: ProjectStore, page: Page
) -> None:
    await page.goto(f"{service}/tasks")
    await expect(page.get_by_role("heading", name="No tasks yet")).to_be_visible()
    await tasks.submit(task())
    await expect(page.locator(".row")).to_contain_text("queued")
    agent = await Agent.claims(store)
    await agent.finishes()

    await expect(page.locator(".row")).to_contain_text("verified")


async def test_a_task_is_found_by_its_words(service: str, tasks: ProjectStore, page: Page) -> None:
    for number in range(60):
        problem = "the needle is here" if number == 3 else f"hay {number}"
        await tasks.submit(task().model_copy(update={"problem_statement": problem}))
    await page.goto(f"{service}/tasks")
    search = page.get_by_label("Search in titles")
    await search.fill("NEEDLE is")
    await search.press("Enter")
    await expect(page.locator(".row")).to_have_count(1)
    await expect(page.locator(".row")).to_contain_text("the needle is here")
    await page.get_by_role("link", name="Failed").click()
    await expect(page.locator("#tasks")).to_contain_text("No task has these words and is failed.")
    await page.get_by_role("link", name="All", exact=True).click()
    await expect(page.locator(".row")).to_have_count(1)
    await search.fill("hay")
    await search.press("Enter")
    await page.get_by_role("link", name="Older").click()
    await expect(page.locator(".row").first).to_contain_text("hay 34")


async def test_what_was_typed_stays_when_it_has_to_change(service: str, tasks: ProjectStore, page: Page) -> None:
    await page.goto(f"{service}/tasks/new")
    await page.get_by_label("What is wrong, or what do you want?").fill("add() subtracts")
    await page.get_by_label("Repository").fill("not/absolute")
    await page.get_by_role("button", name="Submit task").click()

    await expect(page.get_by_role("alert")).to_contain_text("not submitted")
    await expect(page.locator(".error")).to_contain_text("no repository 'not/absolute'")
    await expect(page.get_by_label("What is wrong, or what do you want?")).to_have_value("add() subtracts")
    assert (await tasks.list_tasks()).tasks == ()


async def test_the_form_proposes_the_projects_repositories(service: str, store: Store, page: Page) -> None:
    settings = RepoSettings(url="https://git.example/web.git")
    await Repos(store.database).create(DEFAULT_PROJECT, "web", settings, updated_by="ada")
    await page.goto(f"{service}/tasks/new")
    assert await page.locator("#repositories option").evaluate_all("all => all.map(each => each.value)") == ["web"]


async def test_usage_adds_up_what_all_attempts_used(
    service: str, store: Store, tasks: ProjectStore, page: Page
) -> None:
    for _ in range(2):
        await tasks.submit(task())
        agent = await Agent.claims(store)
        await agent.does("ls", "a")
        await agent.finishes()
    await page.goto(f"{service}/usage?days=7")

    facts = await page.locator(".fact dd").all_inner_texts()
    assert [fact.split()[0] for fact in facts] == ["2", "2", "2,000", "100"]
    title = page.locator(".column title").filter(has_text="800 read from the cache, 1,200 read, 100 written")
    await expect(title).to_have_count(1)


def test_the_files_of_others_are_those_that_were_published() -> None:
    for folder in (AXE.parent, Path(__file__).parents[3] / "agent" / "api" / "web" / "static"):
        _check_notice(folder)


def _check_notice(folder: Path) -> None:
    from hashlib import sha256

    notice = (folder / "NOTICE").read_text("utf-8")
    name = re.search(r"^(\S+\.min\.js)", notice, re.MULTILINE)
    assert name is not None
    assert sha256((folder / name[1]).read_bytes()).hexdigest() in notice
