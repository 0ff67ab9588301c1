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
        for path in ("secrets", "secrets/A/delete", "webhooks", "webhooks/w/delete", "webhooks/w/enabled"):
            assert (await http.post(f"/settings/{path}", data={"name": "A"})).status_code == 403, path
