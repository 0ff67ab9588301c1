"""``mimo serve``: the whole service on one machine, in one command that ends with one Ctrl-C.

This process answers the API and looks after its children: the embedded model server (unless another endpoint is
given) and the workers. They meet in the store, so any of them may die and come back.
"""

import asyncio
import ipaddress
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from rich.text import Text

from agent.api.app import create_app
from agent.api.chores import at_work
from agent.api.gate import LOOPBACK_HOSTS
from agent.api.issuers import FILE_VARIABLE, IdentitySettings, identity_settings
from agent.api.server import server_settings
from agent.api.suites import suites_folder
from agent.cli.children import Child, Command, free_port, keep_alive, listen, model_command, module, wait_healthy
from agent.cli.failure import ExitCode, Failure
from agent.cli.terminal import Terminal
from agent.config import ModelSettings
from agent.errors import SettingsError, StoreError
from agent.integrations.addresses import NETWORKS_VARIABLE, Network, allowed_networks
from agent.integrations.remote import NETWORKS_VARIABLE as REPOSITORY_NETWORKS_VARIABLE
from agent.integrations.remote import Reach, reach_of
from agent.integrations.webhooks import Sender
from agent.repository import check_repository
from agent.store.blobs import ADDRESS_VARIABLE
from agent.store.open import open_store
from agent.store.secrets import KEY_VARIABLE, SecretBox, secret_box_of
from agent.store.webhooks import Webhooks
from agent.telemetry import open_telemetry

_STOP_S = 2
"""Open event streams are cut this long after Ctrl-C; their readers come back by the last id they saw."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The command line of ``mimo serve``."""

    host: str
    port: int
    model: ModelSettings
    checkpoint: str | None
    """Model that an embedded server shall serve; None where ``model`` says who is asked."""
    num_workers: int
    backend: str
    """What makes sandboxes."""
    data: Path
    api_key: str | None
    """The operator's; None: whoever may call is the operator, or issuers say who calls."""
    identity: IdentitySettings
    secret_box: SecretBox | None


def trusted_issuers(environment: Mapping[str, str]) -> IdentitySettings:
    """Whose tokens the service believes, as the file says that the environment names."""
    try:
        return identity_settings(environment)
    except SettingsError as error:
        raise Failure(ExitCode.USAGE, str(error), f"mend that file, or unset {FILE_VARIABLE}") from error


def sealing(environment: Mapping[str, str]) -> SecretBox | None:
    """What seals the secrets of projects."""
    try:
        return secret_box_of(environment)
    except SettingsError as error:
        raise Failure(ExitCode.USAGE, str(error), f"set {KEY_VARIABLE} to such a key, or unset it") from error


async def serve(options: ServeOptions, terminal: Terminal) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        Failure: the service cannot start.
    """
    hosts, networks, reach = _hosts(options), _webhook_networks(os.environ), _reach(os.environ)
    _log_to(terminal)
    stopping = asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(_stopped_by_signals(stopping))
        listener = stack.enter_context(listen(options.host, options.port))
        options.data.mkdir(parents=True, exist_ok=True)
        try:
            opening = open_store(
                _store_url(options.data),
                artifacts=_artifacts_url(options.data),
                box=options.secret_box,
                prices=options.model.prices,
            )
            store = await stack.enter_async_context(opening)
        except StoreError as error:
            raise Failure(ExitCode.FAILED, str(error), "name another directory with --data") from error
        try:
            opening_telemetry = open_telemetry(os.environ, options.model.name, "mimo-api")
            telemetry = await stack.enter_async_context(opening_telemetry)
        except SettingsError as error:
            raise Failure(ExitCode.USAGE, str(error), "install it, or unset the variable") from error
        app = create_app(
            store,
            check_repository,
            api_key=options.api_key,
            identity=options.identity,
            secret_box=options.secret_box,
            hosts=hosts,
            model=options.model,
            reach=reach,
            suites=suites_folder(os.environ),
            telemetry=telemetry,
        )
        sender = Sender(Webhooks(store.database, options.secret_box), allowed=networks)
        starting = asyncio.ensure_future(_start_children(options, stack, terminal))
        await _first(starting, stopping)
        if stopping.is_set():
            return
        await stack.enter_async_context(at_work(app, sender))
        url = await stack.enter_async_context(_serving(app, listener))
        _announce(options, url, terminal)
        await stopping.wait()
        terminal.note("Stopping; unfinished runs go on at the next start.")


def _webhook_networks(environment: Mapping[str, str]) -> tuple[Network, ...]:
    """Networks that are not public, in which webhooks may be."""
    try:
        return allowed_networks(environment)
    except SettingsError as error:
        raise Failure(ExitCode.USAGE, str(error), f"set {NETWORKS_VARIABLE} to such networks, or unset it") from error


def _reach(environment: Mapping[str, str]) -> Reach:
    """The git hosts that may be called."""
    try:
        return reach_of(environment)
    except SettingsError as error:
        remedy = f"set {REPOSITORY_NETWORKS_VARIABLE} to such networks, or unset it"
        raise Failure(ExitCode.USAGE, str(error), remedy) from error


def _hosts(options: ServeOptions) -> frozenset[str] | None:
    """The names the service answers to; None for any.

    Raises:
        Failure: others could reach it, and nothing would stop them.
    """
    if _is_loopback(options.host):
        return LOOPBACK_HOSTS | {options.host}
    if options.api_key is None and not options.identity.issuers:
        raise Failure(
            ExitCode.USAGE,
            f"--host {options.host} would let other machines submit tasks, which run commands on this one",
            "set MIMO_API_KEY to a long random text that callers must show, name trusted issuers in the file "
            f"{FILE_VARIABLE} names, or leave --host out",
        )
    return None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _store_url(data: Path) -> str:
    return f"sqlite:///{data / 'service.db'}"


def _artifacts_url(data: Path) -> str:
    return os.environ.get(ADDRESS_VARIABLE) or (data.absolute() / "artifacts").as_uri()


async def _start_children(options: ServeOptions, stack: AsyncExitStack, terminal: Terminal) -> None:
    """The model server first: a worker without a model would only collect failures."""
    url, name = options.model.url, options.model.name
    if options.checkpoint is not None:
        port = free_port()
        command = model_command(options.checkpoint, port, options.data / "logs" / "model.log")
        terminal.note(f"Starting the embedded model {options.checkpoint} (give --model-url to use another).")
        child = await Child.start(command)
        stack.push_async_callback(child.end)
        name = await wait_healthy(child, port, options.model.api_key)
        url = f"http://127.0.0.1:{port}/v1"
        await stack.enter_async_context(_kept_alive(command, child))
    for number in range(1, options.num_workers + 1):
        await stack.enter_async_context(_kept_alive(_worker(options, url, name, number)))


def _worker(options: ServeOptions, model_url: str, model_name: str, number: int) -> Command:
    arguments = module(
        "agent.orchestrator",
        *("--store", _store_url(options.data)),
        *("--artifacts", _artifacts_url(options.data)),
        *("--data", str(options.data)),
        *("--model-url", model_url),
        *("--model", model_name),
        *("--sandbox", options.backend),
    )
    # The key travels in the environment, where other users of the machine cannot read it.
    key = options.model.api_key
    environment = {} if key is None else {"MIMO_MODEL_API_KEY": key.get_secret_value()}
    if options.checkpoint is not None:
        environment["MIMO_MODEL_SESSIONS"] = "1"
    return Command(f"worker {number}", arguments, options.data / "logs" / f"worker-{number}.log", environment)


@asynccontextmanager
async def _kept_alive(command: Command, child: Child | None = None) -> AsyncIterator[None]:
    keeping = asyncio.ensure_future(keep_alive(command, child))
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})


@asynccontextmanager
async def _serving(app: FastAPI, listener: socket) -> AsyncIterator[str]:
    """Answer on the listener; yields its address."""
    server = _Server(server_settings(app, stop_s=_STOP_S))
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        host, port = listener.getsockname()[:2]
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals end the command as a whole, not the API alone."""
        yield


@contextmanager
def _stopped_by_signals(stopping: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stopping.set)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _first(starting: "asyncio.Future[None]", stopping: asyncio.Event) -> None:
    """Wait for the start, but not past a Ctrl-C."""
    waiting: asyncio.Future[Any] = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait([starting, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        starting.cancel()
        await asyncio.wait([starting, waiting])
    if not starting.cancelled():
        starting.result()


def _announce(options: ServeOptions, url: str, terminal: Terminal) -> None:
    model = options.checkpoint or f"{options.model.name} at {options.model.url}"
    workers = f"{options.num_workers} worker{'' if options.num_workers == 1 else 's'}"
    terminal.note(Text.assemble(("mimo is ready: ", "bold green"), (url, "bold")))
    terminal.note(f"  page     {url}/ (in a browser)")
    terminal.note(f"  model    {model}")
    terminal.note(f"  data     {options.data} ({workers}, logs in {options.data / 'logs'})")
    terminal.note(f'  try      mimo task submit "..." --repo PATH --watch --server {url}')
    terminal.note("  Ctrl-C ends everything.")


def _log_to(terminal: Terminal) -> None:
    """Changes of state of this process, one line each, beside the ready line."""
    handler = logging.StreamHandler(terminal.err.file)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("agent")
    logger.setLevel(logging.ERROR if terminal.quiet else logging.WARNING)
    logger.handlers = [handler]
