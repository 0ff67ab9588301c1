"""``--image`` of ``mimo task``, against a service whose model takes images and one whose model does not."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from agent.testing import ScriptedEndpoint
from agent.testing.serving import serving

from .conftest import CHECK, REPAIR, Mimo, start

PNG = b"\x89PNG\r\n\x1a\n\x00\xff rest"
SHOWN = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"

Serve = Callable[[ScriptedEndpoint], str]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """A service that asks this endpoint; its address."""

    @contextmanager
    def serving(endpoint: ScriptedEndpoint) -> Iterator[str]:
        with endpoint.running() as model:
            process = start("serve", "--port", 0, "--model-url", model, home=tmp_path / "service")
            assert process.stderr is not None
            try:
                yield next(word for line in process.stderr if "ready" in line for word in line.split() if "://" in word)
            finally:
                process.terminate()
                process.communicate(timeout=60)

    with ExitStack() as stack:
        yield lambda endpoint: stack.enter_context(serving(endpoint))


def test_an_image_of_the_problem_reaches_the_model(
    mimo: Mimo, serve: Serve, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIMO_MODEL_IMAGES", "1")
    (tmp_path / "button.png").write_bytes(PNG)
    endpoint = ScriptedEndpoint(REPAIR)
    where = ("--server", serve(endpoint))
    options = ("--repo", checkout, "--check", CHECK, "--image", tmp_path / "button.png", "--watch")
    done = mimo("task", "submit", "add() subtracts", *options, *where)
    assert done.code == 0, done.err
    shown = {"type": "image_url", "image_url": {"url": SHOWN}}
    last = endpoint.requests[-1]["messages"]
    assert [message["content"][1:] for message in last if isinstance(message["content"], list)] == [[shown]]


def test_an_image_of_a_run_here_reaches_the_model(
    mimo: Mimo, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIMO_MODEL_IMAGES", "1")
    (tmp_path / "button.png").write_bytes(PNG)
    endpoint = ScriptedEndpoint(REPAIR)
    with endpoint.running() as url:
        options = ("--repo", checkout, "--check", CHECK, "--model-url", url, "--image", tmp_path / "button.png")
        done = mimo("run", "add() subtracts", *options)
    assert done.code == 0, done.err
    assert "+    return a + b" in done.out
    parts = [
        part
        for each in endpoint.requests[-1]["messages"]
        if isinstance(each["content"], list)
        for part in each["content"]
    ]
    assert [part["image_url"]["url"] for part in parts if part["type"] == "image_url"] == [SHOWN]


def test_an_image_for_a_model_of_text_alone_is_refused_before_anything_is_asked(
    mimo: Mimo, checkout: Path, tmp_path: Path
) -> None:
    (tmp_path / "button.png").write_bytes(PNG)
    endpoint = ScriptedEndpoint(REPAIR)
    with endpoint.running() as url:
        shown = ("--repo", checkout, "--image", tmp_path / "button.png")
        refused = mimo("run", "add() subtracts", *shown, "--model-url", url)
    assert (refused.code, endpoint.requests) == (2, [])
    assert "takes text alone" in refused.err
    assert "takes text alone" in mimo("run", "add() subtracts", *shown).err  # by the model that ships


def test_an_image_that_the_model_does_not_take_is_refused_and_nothing_is_submitted(
    mimo: Mimo, serve: Serve, checkout: Path, tmp_path: Path
) -> None:
    (tmp_path / "button.png").write_bytes(PNG)
    where = ("--server", serve(ScriptedEndpoint(REPAIR)))
    refused = mimo("task", "submit", "add() subtracts", "--repo", checkout, "--image", tmp_path / "button.png", *where)
    assert refused.code == 2
    assert "takes text alone" in refused.err
    assert "No tasks." in mimo("task", "list", *where).err


def test_what_is_no_image_is_refused_before_anything_is_sent(mimo: Mimo, checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("words")
    submit = ("task", "submit", "add() subtracts", "--repo", checkout)
    assert "words.png is no PNG, JPEG or WebP" in mimo(*submit, "--image", tmp_path / "words.png").err
    assert "No such file" in mimo(*submit, "--image", tmp_path / "nowhere.png").err
    (tmp_path / "large.png").write_bytes(PNG + bytes(1_500_000))
    assert "make it 1,500,000 or less" in mimo(*submit, "--image", tmp_path / "large.png").err
    assert "5 images are too many" in mimo(*submit, *("--image", "a.png") * 5).err


def test_without_images_an_older_service_is_told_of_none(mimo: Mimo, checkout: Path) -> None:
    told: list[dict[str, object]] = []

    async def refuse(request: Request) -> JSONResponse:
        told.append(json.loads(await request.body()))
        return JSONResponse({"code": "busy", "detail": "not now"}, 503)

    app = Starlette(routes=[Route("/{path:path}", refuse, methods=["POST"])])
    with serving(app) as port:
        where = ("--server", f"http://127.0.0.1:{port}")
        assert mimo("task", "submit", "add() subtracts", "--repo", checkout, *where).code == 75
        assert mimo("task", "message", "task_1", "and tests", *where).code == 75
    assert ["images" in body for body in told] == [False, False]
    assert told[1]["text"] == "and tests"
