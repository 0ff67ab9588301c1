"""Adds the pages to the application."""

from pathlib import Path

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from agent.api.web import equipment, provider, schedules, session, settings, talk, tasks, usage
from agent.api.web.html import Templates

_STATIC = Path(__file__).parent / "static"


def install(app: FastAPI) -> None:
    app.state.templates = Templates()
    for part in (session, provider, tasks, talk, usage, settings, equipment, schedules):
        app.include_router(part.router)
    app.mount("/static", StaticFiles(directory=_STATIC))
