"""What administrators of a project see and change."""

import httpx
import pytest
from cryptography.fernet import Fernet
from playwright.async_api import Page, expect

from agent.api.app import create_app
from agent.identity import DEFAULT_PROJECT, ROLES
from agent.store.base import ProjectStore, Store
from agent.store.secrets import SecretBox

from .conftest import KEY, resolve_commit, serving, task

pytestmark = pytest.mark.anyio


async def test_a_secret_goes_in_and_never_comes_out(store: Store, page: Page) -> None:
    box = SecretBox(Fernet.generate_key().decode())
    async with serving(create_app(store, resolve_commit, secret_box=box)) as service:
        await page.goto(f"{service}/settings")
        await page.get_by_label("Secret's name").fill("GIT_TOKEN")
        await page.get_by_label("Value").fill("hush-hush")
        await page.get_by_role("button", name="Set the secret").click()

        await expect(page.get_by_role("region", name="Secrets")).to_contain_text("GIT_TOKEN")
        assert "hush-hush" not in await page.content()
        page.once("dialog", lambda dialog: dialog.accept())
        await page.get_by_role("button", name="Delete GIT_TOKEN").click()
        await expect(page.get_by_text("Their values go in and never come out")).to_be_visible()


async def test_a_service_without_a_key_for_secrets_says_so(service: str, page: Page) -> None:
    await page.goto(f"{service}/settings")

    await expect(page.get_by_text("its operator sets MIMO_SECRETS_KEY")).to_be_visible()
    await expect(page.get_by_role("button", name="Set the secret")).to_have_count(0)


async def test_a_webhook_is_made_watched_switched_off_and_deleted(
    service: str, tasks: ProjectStore, page: Page
) -> None:
    await page.goto(f"{service}/settings")
    await page.get_by_label("Address").fill("https://hooks.example.org/mimo")
    await page.get_by_label("run.parked").uncheck()
    await page.get_by_role("button", name="Add the webhook").click()
    assert (await page.locator(".secret").inner_text()).startswith("whsec_")
    submitted = await tasks.submit(task())

    await page.get_by_role("link", name="https://hooks.example.org/mimo").click()
    await expect(page.get_by_role("region", name="Deliveries")).to_contain_text(submitted.id)
    await expect(page.get_by_text("run.parked")).to_have_count(0)
    await page.get_by_role("button", name="Send task.submitted again").click()
    await expect(page.get_by_role("region", name="Deliveries")).to_contain_text("pending")
    await page.get_by_role("button", name="Switch off").click()
    await expect(page.get_by_text("off: nothing new is sent")).to_be_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("A webhook tells a service of yours")).to_be_visible()


async def test_a_webhook_to_nowhere_is_refused_in_words(service: str) -> None:
    async with httpx.AsyncClient(base_url=service, trust_env=False, timeout=60, headers={"Origin": service}) as http:
        for form in ({"url": "hooks.example.org", "task.finished": "on"}, {"url": "https://hooks.example.org"}):
            answer = await http.post("/settings/webhooks", data=form)
            assert (answer.status_code, "Give an address and choose events." in answer.text) == (422, True)


async def test_a_skill_is_made_changed_and_deleted(service: str, page: Page) -> None:
    await page.goto(f"{service}/settings")
    await page.get_by_label("Skill's name").fill("release")
    await page.get_by_label("When it is of use").fill("before a <release>")
    await page.get_by_label("Text").fill("Ask Ada.\n\nThen tag.")
    await page.get_by_role("button", name="Add the skill").click()
    await expect(page.get_by_role("region", name="Skills")).to_contain_text("before a <release>")

    await page.get_by_role("link", name="release", exact=True).click()
    await expect(page.get_by_label("Text")).to_have_value("Ask Ada.\n\nThen tag.")
    await page.get_by_label("When it is of use").fill("when a version is due")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("region", name="Skills")).to_contain_text("when a version is due")

    await page.get_by_role("link", name="release", exact=True).click()
    page.once("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("read a skill when such work comes up")).to_be_visible()


async def test_a_server_of_tools_is_made_changed_and_deleted(store: Store, page: Page) -> None:
    box = SecretBox(Fernet.generate_key().decode())
    sealed = box.seal(DEFAULT_PROJECT, "TRACKER_TOKEN", "hush-hush")
    await store.identities.put_secret(DEFAULT_PROJECT, "TRACKER_TOKEN", sealed, updated_by="test")
    async with serving(create_app(store, resolve_commit, secret_box=box)) as service:
        await page.goto(f"{service}/settings")
        form = page.locator("form", has=page.get_by_role("button", name="Add the server"))
        await form.get_by_label("Server's name").fill("tracker")
        await form.get_by_label("URL").fill("https://tracker.example/mcp")
        await form.get_by_label("Headers").fill("Authorization: Bearer ${TRACKER_TOKEN}\nX-Team: web")
        await form.get_by_label("Tools").fill("find, open")
        await form.get_by_role("button").click()
        await expect(page.get_by_role("region", name="Servers of tools")).to_contain_text("find, open")

        await page.get_by_role("link", name="tracker", exact=True).click()
        headers = "Authorization: Bearer ${TRACKER_TOKEN}\nX-Team: web\n"
        await expect(page.get_by_label("Headers")).to_have_value(headers)
        assert "hush-hush" not in await page.content()
        await page.get_by_label("Tools").fill("")
        await page.get_by_role("button", name="Save").click()
        await expect(page.get_by_role("region", name="Servers of tools")).to_contain_text("all")

        await page.get_by_role("link", name="tracker", exact=True).click()
        page.once("dialog", lambda dialog: dialog.accept())
        await page.get_by_role("button", name="Delete").click()
        await expect(page.get_by_text("call the tools of these servers")).to_be_visible()


async def test_a_server_with_a_readable_credential_is_refused_in_words(service: str) -> None:
    async with httpx.AsyncClient(base_url=service, trust_env=False, timeout=60, headers={"Origin": service}) as http:
        form = {"name": "tracker", "url": "https://tracker.example", "headers": "Authorization: Bearer abc"}
        answer = await http.post("/settings/mcp_servers", data=form)
        assert (answer.status_code, "secret of the project" in answer.text) == (422, True)


async def test_a_schedule_is_made_paused_run_changed_and_deleted(service: str, page: Page) -> None:
    await page.goto(f"{service}/settings")
    await page.get_by_role("link", name="submitted again and again").click()
    await page.get_by_label("Name").fill("<nightly>")
    await page.get_by_label("Cron expression").fill("30 2 * * *")
    await page.get_by_label("While the task before works").select_option("wait for its end")
    await page.get_by_label("Repository").fill("/srv/calculator")
    await page.get_by_label("What is wanted").fill("update the dependencies")
    await page.get_by_role("button", name="Add the schedule").click()

    listed = page.get_by_role("region", name="Schedules")
    await expect(listed).to_contain_text("02:30 UTC")
    await expect(listed).to_contain_text("never")
    await page.get_by_role("button", name="Pause <nightly>").click()
    await expect(listed).to_contain_text("paused")
    await page.get_by_role("button", name="Resume <nightly>").click()
    await expect(listed).to_contain_text("02:30 UTC")

    await page.get_by_role("link", name="<nightly>").click()
    await page.get_by_role("button", name="Run now").click()
    await expect(page.locator("h1")).to_contain_text("update the dependencies")
    await page.goto(f"{service}/settings/schedules")
    await expect(listed.get_by_role("link", name="its task")).to_be_visible()
    await page.get_by_role("link", name="<nightly>").click()
    await page.get_by_label("Cron expression").fill("45 3 * * *")
    await page.get_by_role("button", name="Save").click()
    await expect(listed).to_contain_text("03:45 UTC")

    await page.get_by_role("link", name="<nightly>").click()
    page.once("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("None yet. A schedule has a task submitted")).to_be_visible()


async def test_times_that_cannot_be_are_refused_in_words(service: str) -> None:
    form = {"name": "x", "cron": "every day", "repository": "/srv/calculator", "problem_statement": "x"}
    async with httpx.AsyncClient(base_url=service, trust_env=False, timeout=60, headers={"Origin": service}) as http:
        answer = await http.post("/settings/schedules", data=form)
    assert (answer.status_code, "Write five fields" in answer.text) == (422, True)


async def test_the_audit_log_says_who_made_the_key(guarded: str, page: Page) -> None:
    await page.goto(f"{guarded}/settings")
    await page.get_by_label("API key").fill(KEY)
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_label("Name", exact=True).fill("ci")
    await page.get_by_role("button", name="Make a key").click()
    await page.get_by_role("link", name="Who changed what").click()

    log = page.get_by_role("region", name="Audit log")
    await expect(log).to_contain_text("POST /settings/keys")
    await expect(log).to_contain_text("bootstrap")


async def test_members_see_and_change_none_of_it(guarded: str, store: Store) -> None:
    _, key = await store.identities.create_key(
        DEFAULT_PROJECT, "m", ROLES["member"], created_by="test", expires_at=None
    )
    headers = {"Origin": guarded}
    async with httpx.AsyncClient(
        base_url=guarded, trust_env=False, timeout=60, headers=headers, cookies={"mimo_session": key}
    ) as http:
        assert "Webhooks" not in (await http.get("/settings")).text
        assert (await http.get("/settings/audit")).status_code == 403
        for path in (
            "skills",
            "mcp_servers",
            "secrets",
            "secrets/A/delete",
            "webhooks",
            "webhooks/w/delete",
            "webhooks/w/enabled",
            "schedules",
            "schedules/s/run",
            "schedules/s/delete",
        ):
            assert (await http.post(f"/settings/{path}", data={"name": "A"})).status_code == 403, path
