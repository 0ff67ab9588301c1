"""``python -m docs.pictures.page``: photographs the pages of a real service that the shipped model works for.

Writes docs/pictures/tasks.png and docs/pictures/task.png. Needs Chromium (deploy/setup.sh --for-tests).
"""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from agent.api.schemas import TaskView
from agent.cli import arguments
from agent.cli.client import Client
from evals.repository import write_repository
from evals.runner import Sampling, request_of
from evals.service import ServiceOptions, running_service
from evals.suite import eval_task, nano_heldout

_FOLDER = Path(__file__).parent
_NUM_TASKS = 4
_LOOK_MS = 1500
"""Time for fonts and the first refresh."""


async def main() -> None:
    model, checkpoint = arguments.endpoint(os.environ, url=None, name=None)
    with tempfile.TemporaryDirectory() as folder:
        options = ServiceOptions(model, checkpoint, num_workers=1, data=Path(folder) / "service")
        async with running_service(options) as url, Client(url) as client, async_playwright() as playwright:
            tasks = [await _submit(client, Path(folder), number) for number in range(_NUM_TASKS)]
            for task in tasks[:-1]:
                await _end(client, task)
            browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            await _photograph(browser, f"{url}/tasks", "tasks.png", height=520)
            await _photograph(browser, f"{url}/tasks/{tasks[0].id}", "task.png", height=900, dark=True)
            await browser.close()


async def _submit(client: Client, folder: Path, number: int) -> TaskView:
    exercise = eval_task(nano_heldout("heldout_names", _NUM_TASKS)[number])
    await write_repository(exercise, folder / exercise.id)
    return await client.submit(request_of(exercise, folder / exercise.id, Sampling(), None))


async def _end(client: Client, task: TaskView) -> None:
    async for _ in client.watch(task.id):
        pass


async def _photograph(browser: Browser, url: str, name: str, *, height: int, dark: bool = False) -> None:
    context = await browser.new_context(
        color_scheme="dark" if dark else "light", viewport={"width": 1120, "height": height}, device_scale_factor=1.5
    )
    page = await context.new_page()
    await page.goto(url)
    await page.wait_for_timeout(_LOOK_MS)
    await page.screenshot(path=_FOLDER / name)
    await context.close()


if __name__ == "__main__":
    asyncio.run(main())
