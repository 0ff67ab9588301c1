"""``mimo login``, ``logout`` and ``whoami`` against a service and an identity provider on real HTTP."""

import asyncio
import json
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keyring
import keyring.backend
import keyring.backends.fail
import keyring.errors
import pytest
import uvicorn

from agent.api.app import create_app
from agent.api.issuers import IdentitySettings
from agent.store.open import open_store
from agent.testing import IdentityProvider

from .conftest import Ended, Mimo

OPERATOR = "the operator's own key"


class MemoryKeyring(keyring.backend.KeyringBackend):
    """A keyring that lasts as long as a test."""

    priority = 1.0

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def delete_password(self, service: str, username: str) -> None:
        if self.kept.pop((service, username), None) is None:
            raise keyring.errors.PasswordDeleteError("there is none")


@pytest.fixture
def system_keyring() -> Iterator[MemoryKeyring]:
    before, own = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(own)
    yield own
    keyring.set_keyring(before)


@pytest.fixture
def no_keyring() -> Iterator[None]:
    before = keyring.get_keyring()
    keyring.set_keyring(keyring.backends.fail.Keyring())  # type: ignore[no-untyped-call]
    yield
    keyring.set_keyring(before)


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider().running() as running:
        running.person = lambda code: running.confirm(code, "ann", email="ann@example.org")
        yield running


@pytest.fixture
def service(provider: IdentityProvider) -> Iterator[str]:
    """Address of a service that people sign in to through the provider."""
    grants = [{"project": "default", "role": "member", "claims": {"email": "ann@example.org"}}]
    login = {"client_id": "mimo-cli"}
    issuer = {"name": "company", "url": provider.url, "audience": "mimo-cli", "kind": "oidc", "grants": grants}
    with serving(IdentitySettings.model_validate({"issuers": [issuer | {"login": login}]})) as url:
        yield url


@contextmanager
def serving(identity: IdentitySettings) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    servers: list[uvicorn.Server] = []
    started = threading.Event()

    async def serve() -> None:
        async with open_store("sqlite://") as store:
            app = create_app(store, _resolve, api_key=OPERATOR, identity=identity)
            servers.append(uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none")))
            started.set()
            await servers[0].serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    started.wait()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        servers[0].should_exit = True
        thread.join()
        listener.close()


async def _resolve(path: Path, commit: str) -> str:
    return "c" * 40


def whoami(mimo: Mimo, service: str) -> Ended:
    return mimo("whoami", "--server", service, "-o", "json")


def test_signed_in_person_is_known_to_later_commands(
    mimo: Mimo, service: str, provider: IdentityProvider, system_keyring: MemoryKeyring, tmp_path: Path
) -> None:
    signed_in = mimo("login", "--server", service)
    me = whoami(mimo, service)
    listed = mimo("task", "list", "--server", f"{service}/")

    assert signed_in.code == 0, signed_in.err
    assert f"Open {provider.url}/activate" in signed_in.err
    assert next(iter(provider.devices)) in signed_in.err
    assert json.loads(me.out)["subject"] == "company:ann"
    assert listed.code == 0, listed.err
    kept = next(iter(system_keyring.kept.values()))
    assert json.loads(kept)["secret"] not in (tmp_path / "home" / "logins.json").read_text()


def test_without_keyring_the_login_is_in_a_file_that_only_its_owner_can_read(
    mimo: Mimo, service: str, no_keyring: None, tmp_path: Path
) -> None:
    signed_in = mimo("login", "--server", service)
    file = tmp_path / "home" / "logins.json"

    assert "no keyring" in signed_in.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert whoami(mimo, service).code == 0

    file.chmod(0o644)
    refused = whoami(mimo, service)
    assert (refused.code, "chmod 600" in refused.err) == (1, True)


def test_expired_login_is_renewed_without_asking_anybody(
    mimo: Mimo, service: str, provider: IdentityProvider, system_keyring: MemoryKeyring
) -> None:
    provider.life_s = 30
    mimo("login", "--server", service)
    first = dict(system_keyring.kept)
    provider.life_s = 3600
    me = whoami(mimo, service)

    assert json.loads(me.out)["subject"] == "company:ann", me.err
    assert system_keyring.kept != first
    assert len(provider.devices) == 1


def test_login_that_cannot_be_renewed_says_so(
    mimo: Mimo, service: str, provider: IdentityProvider, system_keyring: MemoryKeyring
) -> None:
    provider.life_s = 30
    mimo("login", "--server", service)
    provider.forget()
    ended = whoami(mimo, service)

    assert (ended.code, "mimo login" in ended.err) == (2, True)


@pytest.mark.parametrize("answer", ["deny", "slow_down"])
def test_login_follows_what_the_person_and_the_provider_say(
    mimo: Mimo, service: str, provider: IdentityProvider, system_keyring: MemoryKeyring, answer: str
) -> None:
    if answer == "deny":
        provider.person = provider.deny
    else:
        provider.slow_downs = 1
    ended = mimo("login", "--server", service)

    assert ended.code == (1 if answer == "deny" else 0), ended.err
    assert bool(system_keyring.kept) == (answer == "slow_down")


def test_key_is_kept_like_a_login(
    mimo: Mimo, service: str, system_keyring: MemoryKeyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyfile = tmp_path / "key"
    keyfile.write_text(f"{OPERATOR}\n")
    with keyfile.open() as typed:
        monkeypatch.setattr("sys.stdin", typed)
        signed_in = mimo("login", "--with-key", "--server", service)

    assert signed_in.code == 0, signed_in.err
    assert OPERATOR not in signed_in.err + signed_in.out
    assert json.loads(whoami(mimo, service).out)["subject"] == "bootstrap"


def test_wrong_key_is_not_kept(
    mimo: Mimo, service: str, system_keyring: MemoryKeyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyfile = tmp_path / "key"
    keyfile.write_text("wrong")
    with keyfile.open() as typed:
        monkeypatch.setattr("sys.stdin", typed)
        ended = mimo("login", "--with-key", "--server", service)

    assert (ended.code, system_keyring.kept) == (2, {})


def test_environment_wins_over_the_login(
    mimo: Mimo, service: str, system_keyring: MemoryKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    mimo("login", "--server", service)
    monkeypatch.setenv("MIMO_API_KEY", OPERATOR)

    assert json.loads(whoami(mimo, service).out)["subject"] == "bootstrap"


def test_logout_forgets(mimo: Mimo, service: str, system_keyring: MemoryKeyring) -> None:
    mimo("login", "--server", service)
    ended = mimo("logout", "--server", service)

    assert (ended.code, system_keyring.kept) == (0, {})
    assert whoami(mimo, service).code == 2


def test_service_without_provider_says_how_to_sign_in_instead(mimo: Mimo, system_keyring: MemoryKeyring) -> None:
    with serving(IdentitySettings()) as url:
        ended = mimo("login", "--server", url)

    assert (ended.code, "--with-key" in ended.err) == (2, True)


def test_credential_is_not_sent_where_it_could_be_read_on_the_way(mimo: Mimo, system_keyring: MemoryKeyring) -> None:
    ended = mimo("login", "--server", "http://mimo.example")

    assert (ended.code, "https://" in ended.err) == (2, True)
