"""Images that people choose, and see again."""

import base64
from pathlib import Path

import pytest
from playwright.async_api import Locator, expect

from agent.api.app import create_app
from agent.config import ModelSettings
from agent.identity import DEFAULT_PROJECT
from agent.store.open import open_store

from .conftest import Tab, resolve_commit, serving, task

pytestmark = pytest.mark.anyio

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
"""One pixel."""


async def _is_seen(image: Locator) -> None:
    await expect(image).to_be_visible()
    await expect(image).to_have_js_property("complete", True)
    await expect(image).to_have_js_property("naturalWidth", 1)


async def _send(tab: Tab, service: str, chosen: list[Path]) -> None:
    await tab.page.goto(f"{service}/tasks/new")
    await tab.page.get_by_label("What is wrong").fill("The button is off.")
    await tab.page.get_by_label("Repository").fill("/srv/shop")
    await tab.page.get_by_label("Images").set_input_files(chosen)
    await expect(tab.page.locator("[name^=image_]")).to_have_count(len(chosen))
    await tab.page.get_by_role("button", name="Submit task").click()


async def test_chosen_images_are_kept_with_the_task_and_others_refused_in_words(tab: Tab, tmp_path: Path) -> None:
    picture, text = tmp_path / "button.png", tmp_path / "words.png"
    picture.write_bytes(PNG)
    text.write_bytes(b"words")
    async with open_store(f"sqlite:///{tmp_path}/mimo.db", artifacts=f"file://{tmp_path}/kept") as store:
        app = create_app(store, resolve_commit, model=ModelSettings(name="sees", images=True))
        async with serving(app) as service:
            await _send(tab, service, [picture, text])
            await expect(tab.page.get_by_text("It does not begin as image/png does")).to_be_visible()
            assert tab.complaints == [
                "error: Failed to load resource: the server responded with a status of 422 (Unprocessable Entity)"
            ]
            await _send(tab, service, [picture])
            await _is_seen(tab.page.locator("#log img"))
            await tab.page.goto("about:blank")
        (task,) = (await store.of(DEFAULT_PROJECT).list_tasks(limit=5)).tasks
        assert store.artifacts is not None
        (kept,) = await store.artifacts.of_task(DEFAULT_PROJECT, task.id)
        found = [piece async for piece in store.artifacts.read(DEFAULT_PROJECT, task.id, kept)]
        assert (kept.media_type, b"".join(found)) == ("image/png", PNG)


async def test_images_chosen_and_pasted_go_with_a_message(tab: Tab, tmp_path: Path) -> None:
    picture, large = tmp_path / "button.png", tmp_path / "large.png"
    picture.write_bytes(PNG)
    large.write_bytes(PNG + bytes(1_500_000))
    async with open_store(f"sqlite:///{tmp_path}/mimo.db", artifacts=f"file://{tmp_path}/kept") as store:
        submitted = await store.of(DEFAULT_PROJECT).submit(task())
        app = create_app(store, resolve_commit, model=ModelSettings(name="sees", images=True))
        async with serving(app) as service:
            page = tab.page
            await page.goto(f"{service}/tasks/{submitted.id}")
            text, chosen, hidden = (
                page.get_by_label("Message"),
                page.get_by_label("Images"),
                page.locator("[name^=image_]"),
            )
            await chosen.set_input_files([large])
            assert (
                await chosen.evaluate("input => input.validationMessage")
                == "Choose up to four images, 1.5 MB together."
            )
            await chosen.set_input_files([picture])
            await expect(hidden).to_have_count(1)
            assert await chosen.evaluate("input => input.validationMessage") == ""
            await text.fill("Like this.")
            await text.press("Control+Enter")
            await _is_seen(page.locator("#log img"))
            await expect(hidden).to_have_count(0)
            await text.evaluate(
                """(text, bytes) => {
                  const data = new DataTransfer();
                  data.items.add(new File([new Uint8Array(bytes)], "a.png", {type: "image/png"}));
                  text.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
                }""",
                list(PNG),
            )
            await expect(hidden).to_have_count(1)
            await text.fill("Or this.")
            await text.press("Control+Enter")
            await expect(page.locator("#log img")).to_have_count(2)
            await _is_seen(page.locator("#log img").last)
            async with page.expect_popup() as opening:
                await page.locator("#log img").last.click()
            alone = await opening.value
            await _is_seen(alone.locator("img"))
            assert tab.complaints == []
            await page.goto("about:blank")
        assert store.artifacts is not None
        kept = await store.artifacts.of_task(DEFAULT_PROJECT, submitted.id)
        assert [artifact.media_type for artifact in kept] == ["image/png", "image/png"]


async def test_where_the_model_takes_text_alone_no_images_are_asked_for(tab: Tab, service: str) -> None:
    await tab.page.goto(f"{service}/tasks/new")
    await expect(tab.page.get_by_label("What is wrong")).to_be_visible()
    await expect(tab.page.get_by_label("Images")).to_have_count(0)
