"""Turns templates into answers, with the headers every page carries."""

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from agent.api.auth import SESSION_COOKIE
from agent.api.web import text
from agent.types import Status

_HEADERS = {
    # Nothing is loaded from elsewhere, nothing in the page itself is run or styled, nobody may frame it.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-cache",
}

THEME_COOKIE = "mimo_theme"


class Templates:
    """The pages' templates. One for the life of the application."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=PackageLoader("agent.api.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(_FILTERS)
        # No HTML of the text's own, no images from elsewhere; addresses other than of pages and mail are left out.
        prose = MarkdownIt("js-default").disable("image")
        self._environment.filters["markdown"] = lambda words: Markup(prose.render(text.visible(words)))  # noqa: S704
        line = MarkdownIt("zero").enable("backticks")
        self._environment.filters["titled"] = lambda words: Markup(line.renderInline(text.first_line(words)))  # noqa: S704
        self._environment.globals["static"] = cache(_static)

    def page(self, request: Request, name: str, code: HTTPStatus = HTTPStatus.OK, **values: Any) -> HTMLResponse:
        """A whole page."""
        shown = self.part(name, **_common(request), **values)
        return HTMLResponse(shown, code, _HEADERS)

    def part(self, name: str, **values: Any) -> str:
        """A piece of a page."""
        return self._environment.get_template(name).render(values)


def _common(request: Request) -> dict[str, Any]:
    theme = request.cookies.get(THEME_COOKIE, "")
    return {
        "theme": theme if theme in ("light", "dark") else "",
        "path": request.url.path,
        "signed_in": SESSION_COOKIE in request.cookies,
    }


def _static(name: str) -> str:
    """The address of a file, which changes with the file: browsers keep old ones."""
    content = files("agent.api.web").joinpath("static", name).read_bytes()
    return f"/static/{name}?{sha256(content).hexdigest()[:12]}"


def _tone(state: str) -> str:
    """The colour of a status or a verdict; its word always stands beside it."""
    return _TONES.get(state, "quiet")


def _words(name: str) -> str:
    return name.replace("_", " ")


_TONES: dict[str, str] = {
    **dict.fromkeys((Status.PROVISIONING, Status.RUNNING, Status.FINALIZING), "busy"),
    **dict.fromkeys(("waiting", "paused", "partly_verified", "unverified"), "warning"),
    **dict.fromkeys((Status.SUCCEEDED, "verified"), "good"),
    **dict.fromkeys((Status.FAILED, "regressed", "no_change"), "bad"),
}

_FILTERS: dict[str, Callable[..., str]] = {
    "visible": text.visible,
    "first_line": text.first_line,
    "count": text.count,
    "duration": text.duration,
    "ago": text.ago,
    "tone": _tone,
    "words": _words,
}
