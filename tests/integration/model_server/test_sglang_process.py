"""SGLang as a child of our server, from its start to its end, with the fake in its place."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_server.__main__ import main
from model_server.sglang.arguments import Launch
from model_server.sglang.health import SGLangFailed
from model_server.sglang.process import SGLangProcess, running
from tests.integration.model_server.fake_service import CONFIG
from tests.unit.model_server.small_tokenizer import small_tokenizer

FAKE = f"{sys.executable} -m model_server.testing --fake-answer 'hello '"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No weights: our server reads none here."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    folder.mkdir()
    tokenizer = small_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(CONFIG.model_copy(update={"vocab_size": 1024}).model_dump_json())
    return folder


def settings(checkpoint: Path) -> dict[str, Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "model_path": str(checkpoint),
        "port": port,
        "gpus": 1,
        "attention_groups": 1,
        "expert_exchange": "none",
        "draft_steps": 0,
        "context_length": 512,
    }


@asynccontextmanager
async def front(
    checkpoint: Path, launch: dict[str, Any], fake: str
) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str, list[str]], None]:
    """Our server, its address, and the lines of its log. ``fake`` is the command that it starts."""
    file = checkpoint.parent / "launch.json"
    file.write_text(json.dumps(launch))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "model_server", "--checkpoint", str(checkpoint), "--port", "0",
        "--sglang-start", str(file), "--sglang-command", fake,
        stderr=asyncio.subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines: list[str] = []

    async def read() -> None:
        assert child.stderr is not None
        async for line in child.stderr:
            lines.append(line.decode())

    reading = asyncio.create_task(read())
    try:
        await said(lines, "url=")
        found = re.search(r"url=(\S+)/v1", "".join(lines))
        assert found is not None
        yield child, found[1], lines
    finally:
        if child.returncode is None:
            child.terminate()
        await child.wait()
        await reading


async def said(lines: list[str], words: str) -> None:
    while not any(words in line for line in lines):  # noqa: ASYNC110 (a log has no events)
        await asyncio.sleep(0.02)


@pytest.mark.anyio
async def test_sglang_comes_up_answers_and_ends_what_runs_when_we_are_stopped(checkpoint: Path) -> None:
    asked = {"input_ids": [1], "stream": True, "sampling_params": {"max_new_tokens": 40, "ignore_eos": True}}
    launch, fake = settings(checkpoint), f"{FAKE} --fake-interval-s 0.05"
    async with (
        front(checkpoint, launch, fake) as (server, url, lines),
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        assert (await http.get("/health")).status_code == 503  # it listens before SGLang does
        await said(lines, "sglang.generates")
        assert (await http.get("/health")).status_code == 200
        async with http.stream("POST", "/generate", json=asked) as answer:
            events = answer.aiter_lines()
            await anext(events)
            server.send_signal(signal.SIGTERM)
            rest = [line async for line in events if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["meta_info"]["completion_tokens"] == 40
        assert await server.wait() == 0
    assert any("sglang.stopped code=0" in line for line in lines)
    with pytest.raises(httpx.ConnectError):
        async with httpx.AsyncClient() as http:
            await http.get(f"http://127.0.0.1:{launch['port']}/health")


def child(program: str) -> SGLangProcess:
    """Any Python program in SGLang's place."""
    return SGLangProcess(Launch(("--port", "1"), {"GIVEN": "variable"}), (sys.executable, "-c", program))


async def at_once() -> float:
    return 0.0


async def never() -> float:
    raise SGLangFailed("SGLang ended while it started: see its log")


async def long() -> float:
    await asyncio.sleep(3600)
    return 0.0


def test_it_is_given_its_arguments_and_variables() -> None:
    process = child("import os, sys; sys.exit(sys.argv[1:] == ['--port', '1'] and os.environ['GIVEN'] == 'variable')")
    process.start()
    assert process.wait() == 1


def test_one_that_ends_by_itself_stops_the_server() -> None:
    stopped = threading.Event()
    with (
        pytest.raises(SGLangFailed, match="ended by itself with code 3"),
        running(child("exit(3)"), at_once, stopped.set),
    ):
        assert stopped.wait(60)


def test_one_that_does_not_come_up_stops_the_server() -> None:
    stopped, process = threading.Event(), child("import time; time.sleep(600)")
    with pytest.raises(SGLangFailed, match="while it started"), running(process, never, stopped.set):
        assert stopped.wait(60)
    assert not process.is_alive


def test_one_that_is_told_to_end_may_drain_first(tmp_path: Path) -> None:
    process = child(
        "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).write_text('yes'); time.sleep(600)"
    )
    with running(process, long, lambda: None):
        written(tmp_path / "ready")
    assert process.wait() == 7


def test_what_does_not_drain_in_time_is_killed_with_all_it_started(tmp_path: Path) -> None:
    process = child(
        "import pathlib, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid)); time.sleep(600)"
    )
    process.start()
    pid = int(written(tmp_path / "pid"))
    process.stop(drain_s=0.1)
    assert process.wait() == -signal.SIGKILL
    while runs(pid):  # the kernel may take a moment
        time.sleep(0.02)


def written(file: Path) -> str:
    """What a child writes once it is ready."""
    while not file.exists() or not file.read_text():
        time.sleep(0.02)
    return file.read_text()


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_program_that_is_not_there_is_an_error_of_the_system() -> None:
    with (
        pytest.raises(OSError, match="/nowhere/sglang"),
        running(SGLangProcess(Launch((), {}), ("/nowhere/sglang",)), at_once, lambda: None),
    ):
        pass


@pytest.mark.parametrize(("changes", "complaint"), [({"gpus": 3}, "attention_groups"), ({"gpu": 3}, "gpu: ")])
def test_a_mistake_in_the_settings_exits_2(
    checkpoint: Path, changes: dict[str, Any], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkpoint.parent / "wrong.json"
    file.write_text(json.dumps(settings(checkpoint) | changes))
    assert main(["--checkpoint", str(checkpoint), "--port", "0", "--sglang-start", str(file)]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
