"""Who may see and do what through the page: the same as through REST."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from playwright.async_api import Page, expect

from agent.api.app import create_app
from agent.api.issuers import Grant, IdentitySettings, Issuer, Login
from agent.identity import DEFAULT_PROJECT, ROLES
from agent.store.base import Project, ProjectStore, Store
from agent.testing.identity_provider import CLIENT_ID, IdentityProvider

from .conftest import KEY, Tab, resolve_commit, serving, task

pytestmark = pytest.mark.anyio


async def _sign_in(page: Page, key: str) -> None:
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Sign in").click()


async def _key(store: Store, role: str, project: str = DEFAULT_PROJECT) -> str:
    _, secret = await store.identities.create_key(project, role, ROLES[role], created_by="test", expires_at=None)
    return secret


async def test_a_key_opens_the_page_that_was_asked_for(guarded: str, tasks: ProjectStore, tab: Tab) -> None:
    submitted = await tasks.submit(task())
    page = tab.page
    await page.goto(f"{guarded}/tasks/{submitted.id}")
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    await _sign_in(page, "wrong")
    await expect(page.get_by_role("alert")).to_contain_text("wrong, revoked or expired")
    await _sign_in(page, KEY)
    await expect(page.get_by_role("heading", name="add() subtracts")).to_be_visible()

    [cookie] = await page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    await page.get_by_role("button", name="Sign out").click()
    await page.goto(f"{guarded}/tasks")
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


async def test_a_link_from_elsewhere_opens_for_whoever_is_signed_in(
    guarded: str, service: str, tasks: ProjectStore, page: Page
) -> None:
    submitted = await tasks.submit(task())
    await page.goto(f"{guarded}/sign-in")
    await _sign_in(page, KEY)
    await page.wait_for_url(f"{guarded}/tasks")
    elsewhere = service.replace("127.0.0.1", "localhost")
    await page.goto(elsewhere)
    await page.evaluate("(address) => { location.href = address; }", f"{guarded}/tasks/{submitted.id}")

    await expect(page.get_by_role("heading", name="add() subtracts")).to_be_visible()


async def test_what_is_typed_outlives_the_session(guarded: str, tasks: ProjectStore, page: Page) -> None:
    await page.goto(f"{guarded}/tasks/new")
    await _sign_in(page, KEY)
    await page.get_by_label("What is wrong").fill("add() subtracts")
    await page.get_by_label("Repository").fill("/srv/calculator")
    await page.context.clear_cookies()
    await page.get_by_role("button", name="Submit task").click()
    await expect(page.get_by_role("alert")).to_contain_text("You are signed out.")
    async with page.expect_popup() as opened:
        await page.get_by_role("alert").get_by_role("link", name="Sign in").click()
    other = await opened.value
    await _sign_in(other, KEY)
    await other.wait_for_url("**/tasks")

    await page.get_by_role("button", name="Submit task").click()
    await page.wait_for_url("**/tasks/task_*")
    assert [task.request.problem_statement for task in (await tasks.list_tasks()).tasks] == ["add() subtracts"]


async def test_a_list_says_that_the_session_is_over(guarded: str, page: Page) -> None:
    await page.goto(f"{guarded}/tasks")
    await _sign_in(page, KEY)
    await expect(page.get_by_role("heading", name="No tasks yet")).to_be_visible()
    await page.context.clear_cookies()
    await expect(page.get_by_role("alert")).to_contain_text("You are signed out.")


async def test_sign_in_leads_to_no_other_site(guarded: str) -> None:
    async with httpx.AsyncClient(base_url=guarded, trust_env=False, timeout=60, headers={"Origin": guarded}) as http:
        for address in ("//elsewhere.example", "https://elsewhere.example", "/\\elsewhere.example", "x"):
            answer = await http.post("/sign-in", data={"key": KEY, "next": address})
            assert (answer.status_code, answer.headers["location"]) == (303, "/tasks")


async def test_forms_of_other_pages_are_refused(guarded: str, tasks: ProjectStore) -> None:
    form = {"repository": "/srv/x", "problem_statement": "x"}
    async with httpx.AsyncClient(base_url=guarded, trust_env=False, timeout=60, cookies={"mimo_session": KEY}) as http:
        foreign = await http.post("/tasks", data=form, headers={"Origin": "https://elsewhere.example"})
        unnamed = await http.post("/tasks", data=form)

    assert (foreign.status_code, unnamed.status_code) == (403, 403)
    assert (await tasks.list_tasks()).tasks == ()


async def test_a_viewer_sees_and_does_nothing_else(guarded: str, store: Store, tasks: ProjectStore) -> None:
    submitted = await tasks.submit(task())
    cookies = {"mimo_session": await _key(store, "viewer")}
    async with httpx.AsyncClient(
        base_url=guarded, trust_env=False, timeout=60, cookies=cookies, headers={"Origin": guarded}
    ) as http:
        assert (await http.get(f"/tasks/{submitted.id}")).status_code == 200
        for path in ("/tasks", *(f"/tasks/{submitted.id}/{word}" for word in _WORDS), "/settings/keys"):
            answer = await http.post(path, data={"text": "x"})
            assert answer.status_code == 403, path
            assert "takes the scope" in answer.text

    assert (await tasks.get(submitted.id)).last_seq == submitted.last_seq


_WORDS = ("messages", "cancel", "pause", "resume", "budget", "approvals/a")


async def test_another_projects_task_is_not_there(guarded: str, store: Store, tasks: ProjectStore) -> None:
    submitted = await tasks.submit(task())
    await store.make_project(Project(project_id="other"))
    cookies = {"mimo_session": await _key(store, "admin", "other")}
    parts = ("", "/live", "/changes", "/patch", "/verdict", "/attempts", "/details")
    async with httpx.AsyncClient(base_url=guarded, trust_env=False, timeout=60, cookies=cookies) as http:
        for part in parts:
            assert (await http.get(f"/tasks/{submitted.id}{part}")).status_code == 404, part
        assert submitted.id not in (await http.get("/tasks")).text
        assert (await http.get(f"/tasks/new?like={submitted.id}")).status_code == 404


async def test_a_key_is_made_shown_once_used_and_revoked(guarded: str, tab: Tab) -> None:
    page = tab.page
    await page.goto(f"{guarded}/settings")
    await _sign_in(page, KEY)
    await page.get_by_label("Name", exact=True).fill("ci")
    await page.get_by_role("button", name="Make a key").click()
    secret = await page.locator(".secret").inner_text()
    await page.goto(f"{guarded}/settings")
    await expect(page.locator("table")).to_contain_text("ci")
    await expect(page.get_by_text(secret)).to_have_count(0)
    async with httpx.AsyncClient(
        base_url=guarded, trust_env=False, timeout=60, cookies={"mimo_session": secret}
    ) as http:
        assert (await http.get("/tasks")).status_code == 200
        page.once("dialog", lambda dialog: dialog.accept())
        await page.get_by_role("button", name="Revoke ci").click()
        await expect(page.locator("table")).to_contain_text("revoked")
        assert (await http.get("/tasks")).status_code == 401


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider(signed_in={"sub": "ada", "groups": ["web"]}).running() as running:
        yield running


@pytest.fixture
async def trusting(store: Store, provider: IdentityProvider) -> AsyncIterator[str]:
    """Address of a service whose people sign in through the provider."""
    issuer = Issuer(
        name="company",
        url=provider.url,
        audience=CLIENT_ID,
        kind="oidc",
        login=Login(client_id=CLIENT_ID, page=True),
        grants=(Grant(project=DEFAULT_PROJECT, role="admin", claims={"groups": "web"}),),
    )
    async with serving(create_app(store, resolve_commit, identity=IdentitySettings(issuers=(issuer,)))) as url:
        yield url


async def test_a_person_signs_in_through_the_identity_provider(trusting: str, tasks: ProjectStore, page: Page) -> None:
    submitted = await tasks.submit(task())
    await page.goto(f"{trusting}/tasks/{submitted.id}")
    await page.get_by_role("link", name="Sign in with company").click()

    await expect(page.get_by_role("heading", name="add() subtracts")).to_be_visible()
    await page.goto(f"{trusting}/settings")
    await expect(page.get_by_text("company:ada")).to_be_visible()
    [cookie] = await page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("mimo_session", True, "Strict")


async def test_the_provider_lets_in_nobody_it_refused_and_nobody_without_a_grant(
    trusting: str, provider: IdentityProvider, page: Page
) -> None:
    provider.signed_in = None
    await page.goto(f"{trusting}/sign-in/provider")
    await expect(page.get_by_text("The identity provider refused: access_denied.")).to_be_visible()
    provider.signed_in = {"sub": "eve", "groups": ["sales"]}
    await page.goto(f"{trusting}/sign-in/provider")
    await expect(page.get_by_text("no grant of this service covers it")).to_be_visible()

    assert "mimo_session" not in [cookie["name"] for cookie in await page.context.cookies()]


async def test_a_sign_in_begun_in_another_browser_is_refused(trusting: str, provider: IdentityProvider) -> None:
    async with httpx.AsyncClient(base_url=trusting, trust_env=False, timeout=60) as eve:
        begun = await eve.get("/sign-in/provider")
        async with httpx.AsyncClient(trust_env=False, timeout=60) as away:
            back = (await away.get(begun.headers["location"])).headers["location"]
    async with httpx.AsyncClient(trust_env=False, timeout=60) as victim:
        answer = await victim.get(back)

    assert (answer.status_code, "not begun in this browser" in answer.text) == (401, True)
    assert "mimo_session" not in answer.cookies


async def test_a_provider_that_is_away_is_named(trusting: str, provider: IdentityProvider) -> None:
    provider.away = True
    async with httpx.AsyncClient(base_url=trusting, trust_env=False, timeout=60) as http:
        answer = await http.get("/sign-in/provider")

    assert (answer.status_code, "The identity provider company cannot be used now." in answer.text) == (502, True)
