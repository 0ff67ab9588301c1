"""Who may call: API keys, tokens of issuers, and what each refusal says."""

import base64
import hashlib
import hmac
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.api.app import create_app
from agent.api.issuers import IdentitySettings
from agent.api.tokens import IssuerUnreachable, TokenRefused, Tokens
from agent.identity import SCOPES
from agent.store.base import Store
from agent.store.open import open_store
from agent.testing import IdentityProvider

pytestmark = pytest.mark.anyio

OPERATOR = "the operator's own key"
PEOPLE = [
    {"project": "web", "role": "admin", "claims": {"groups": "web-leads"}},
    {"project": "web", "role": "viewer", "claims": {"groups": "web"}},
    {"project": "data", "role": "member", "claims": {"groups": ["data", "science"]}},
]


async def resolve_commit(path: Path, commit: str) -> str:
    return "c" * 40


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(clock: Clock) -> AsyncIterator[Store]:
    async with open_store("sqlite://", clock=clock) as opened:
        yield opened


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider(audience="mimo").running() as running:
        yield running


@asynccontextmanager
async def calling(store: Store, *issuers: dict[str, Any], api_key: str | None = OPERATOR) -> AsyncIterator[Any]:
    """A function that calls the service with a credential."""
    settings = IdentitySettings.model_validate({"issuers": issuers})
    app = create_app(store, resolve_commit, api_key=api_key, identity=settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://mimo.example") as http:

        async def call(method: str, path: str, credential: str | None = api_key, **arguments: Any) -> httpx.Response:
            headers = arguments.pop("headers", {})
            if credential is not None:
                headers |= {"Authorization": f"Bearer {credential}"}
            return await http.request(method, path, headers=headers, **arguments)

        for project in ("web", "data"):
            assert (await call("POST", "/v1/projects", json={"id": project})).status_code == 201
        yield call


def company(provider: IdentityProvider, **changes: Any) -> dict[str, Any]:
    issuer = {"name": "company", "url": provider.url, "audience": "mimo", "kind": "oidc", "grants": PEOPLE}
    return issuer | changes


async def make_key(call: Any, project: str = "web", **wanted: Any) -> tuple[str, str]:
    body = {"name": "a test", "scopes": ["tasks:read"]} | wanted
    made = await call("POST", f"/v1/projects/{project}/api_keys", json=body)
    assert made.status_code == 201, made.text
    return made.json()["key"]["id"], made.json()["secret"]


# Keys.


async def test_key_acts_in_its_project_with_its_scopes(store: Store) -> None:
    async with calling(store) as call:
        key_id, secret = await make_key(call, scopes=["tasks:read", "tasks:write"])
        me = (await call("GET", "/v1/me", secret)).json()

    assert me == {"subject": key_id, "kind": "key", "project": "web", "scopes": ["tasks:read", "tasks:write"]}


async def test_key_is_shown_once_and_kept_as_a_hash(store: Store, tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/mimo.db") as kept, calling(kept) as call:
        key_id, secret = await make_key(call)
        listed = await call("GET", "/v1/projects/web/api_keys")
        assert [key["id"] for key in listed.json()["api_keys"]] == [key_id]
        assert secret.rpartition("_")[2] not in listed.text

    written = _bytes_in(tmp_path)
    assert key_id.encode() in written
    assert secret.rpartition("_")[2].encode() not in written


def _bytes_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


@pytest.mark.parametrize("spoiled", ["last", "first", "cut", "other"])
async def test_wrong_key_is_refused(store: Store, spoiled: str) -> None:
    async with calling(store) as call:
        _, secret = await make_key(call)
        changed = {
            "last": secret[:-1] + ("0" if secret[-1] != "0" else "1"),
            "first": "x" + secret[1:],
            "cut": secret[:-1],
            "other": secret[:22] + "0" * 64,
        }[spoiled]
        answer = await call("GET", "/v1/me", changed)

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_revoked_key_is_refused_at_once(store: Store) -> None:
    async with calling(store) as call:
        key_id, secret = await make_key(call)
        assert (await call("GET", "/v1/me", secret)).status_code == 200
        for _ in range(2):
            revoked = await call("DELETE", f"/v1/projects/web/api_keys/{key_id}")
            assert revoked.json()["revoked_at"] is not None
        assert (await call("GET", "/v1/me", secret)).status_code == 401


async def test_key_expires(store: Store, clock: Clock) -> None:
    async with calling(store) as call:
        _, secret = await make_key(call, expires_at=(clock.now + timedelta(hours=1)).isoformat())
        assert (await call("GET", "/v1/me", secret)).status_code == 200
        clock.now += timedelta(hours=1)
        assert (await call("GET", "/v1/me", secret)).status_code == 401


async def test_last_use_of_a_key_is_known_to_ten_minutes(store: Store, clock: Clock) -> None:
    async with calling(store) as call:

        async def last_use() -> datetime:
            listed = (await call("GET", "/v1/projects/web/api_keys")).json()
            return datetime.fromisoformat(listed["api_keys"][0]["last_used_at"])

        _, secret = await make_key(call)
        first = clock.now
        await call("GET", "/v1/me", secret)
        clock.now += timedelta(minutes=9)
        await call("GET", "/v1/me", secret)
        assert await last_use() == first

        clock.now += timedelta(minutes=1)
        await call("GET", "/v1/me", secret)
        assert await last_use() == clock.now


async def test_nobody_makes_a_key_that_may_more_than_they_may(store: Store) -> None:
    async with calling(store) as call:
        _, admin = await make_key(call, scopes=["projects:admin", "tasks:read"])
        body = {"name": "more", "scopes": ["tasks:read", "service:admin"]}
        answer = await call("POST", "/v1/projects/web/api_keys", admin, json=body)

    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")


async def test_keys_of_a_closed_project_are_refused_and_its_id_is_not_given_again(store: Store) -> None:
    async with calling(store) as call:
        _, secret = await make_key(call)
        assert (await call("DELETE", "/v1/projects/web")).status_code == 204

        assert (await call("GET", "/v1/me", secret)).status_code == 401
        assert (await call("GET", "/v1/me", headers={"Mimo-Project": "web"})).status_code == 403
        assert (await call("POST", "/v1/projects", json={"id": "web"})).status_code == 409


async def test_default_project_is_not_closed(store: Store) -> None:
    async with calling(store) as call:
        assert (await call("DELETE", "/v1/projects/default")).status_code == 409


async def test_operator_acts_in_the_project_it_names(store: Store) -> None:
    async with calling(store) as call:
        mine = (await call("GET", "/v1/me")).json()
        named = (await call("GET", "/v1/me", headers={"Mimo-Project": "web"})).json()

    assert (mine["project"], named["project"]) == ("default", "web")
    assert set(named["scopes"]) == SCOPES


@pytest.mark.parametrize("project", ["data", "nowhere"])
async def test_key_cannot_name_another_project_and_does_not_learn_whether_it_exists(store: Store, project: str) -> None:
    async with calling(store) as call:
        _, secret = await make_key(call)
        answer = await call("GET", "/v1/me", secret, headers={"Mimo-Project": project})

    assert (answer.status_code, answer.json()["code"]) == (403, "foreign_project")


async def test_without_key_and_issuer_whoever_calls_is_the_operator(store: Store) -> None:
    async with calling(store, api_key=None) as call:
        me = (await call("GET", "/v1/me", None)).json()
        _, secret = await make_key(call)
        with_key = (await call("GET", "/v1/me", secret)).json()
        wrong = await call("GET", "/v1/me", "mimo_0")

    assert (me["subject"], me["kind"]) == ("local", "local")
    assert set(me["scopes"]) == SCOPES
    assert with_key["project"] == "web"
    assert wrong.status_code == 401


@pytest.mark.parametrize("authorization", ["Basic dTpw", "Bearer", "Bearer ", "bearer\t", "token x"])
async def test_header_that_holds_no_bearer_credential_is_refused(store: Store, authorization: str) -> None:
    async with calling(store) as call:
        answer = await call("GET", "/v1/me", None, headers={"Authorization": authorization})

    assert answer.status_code == 401


async def test_page_signed_in_by_cookie_acts_like_its_key(store: Store) -> None:
    async with calling(store) as call:
        _, secret = await make_key(call)
        me = await call("GET", "/v1/me", None, headers={"Cookie": f"mimo_theme=dark; mimo_session={secret}"})
        elsewhere = await call(
            "GET", "/v1/me", None, headers={"Cookie": f"mimo_session={secret}", "Origin": "https://evil.example"}
        )

    assert me.json()["project"] == "web"
    assert elsewhere.status_code == 403


async def test_browser_without_credential_is_sent_to_sign_in_and_a_program_is_not(store: Store) -> None:
    async with calling(store) as call:
        person = await call("GET", "/tasks/x", None, headers={"Accept": "text/html,*/*"})
        program = await call("GET", "/tasks/x", None)

    assert (person.status_code, person.headers["location"]) == (303, "/sign-in?next=/tasks/x")
    assert program.status_code == 401


# Tokens.


async def test_token_acts_where_the_first_fitting_grant_says(store: Store, provider: IdentityProvider) -> None:
    async with calling(store, company(provider)) as call:
        viewer = (await call("GET", "/v1/me", provider.token("ann", groups=["staff", "web"]))).json()
        both = provider.token("bob", groups=["web", "science"])
        first = (await call("GET", "/v1/me", both)).json()
        second = (await call("GET", "/v1/me", both, headers={"Mimo-Project": "data"})).json()

    assert viewer == {"subject": "company:ann", "kind": "oidc", "project": "web", "scopes": ["tasks:read"]}
    assert (first["project"], second["project"]) == ("web", "data")
    assert "tasks:write" in second["scopes"]
    assert "tasks:write" not in first["scopes"]


async def test_genuine_token_without_grant_is_forbidden(store: Store, provider: IdentityProvider) -> None:
    async with calling(store, company(provider)) as call:
        answer = await call("GET", "/v1/me", provider.token("eve", groups=["sales"]))

    assert (answer.status_code, answer.json()["code"]) == (403, "no_project")


def hour(hours: float) -> int:
    return int((datetime.now(UTC) + timedelta(hours=hours)).timestamp())


FORGERIES: dict[str, Callable[[IdentityProvider], str]] = {
    "expired": lambda p: p.token("ann", groups=["web"], exp=hour(-1), iat=hour(-2)),
    "without an end": lambda p: p.token("ann", groups=["web"], exp=None),
    "from the future": lambda p: p.token("ann", groups=["web"], iat=hour(1)),
    "not yet valid": lambda p: p.token("ann", groups=["web"], nbf=hour(1)),
    "for another audience": lambda p: p.token("ann", groups=["web"], aud="another"),
    "without audience": lambda p: p.token("ann", groups=["web"], aud=None),
    "of a stranger": lambda p: p.token("ann", groups=["web"], iss="https://evil.example"),
    "without subject": lambda p: p.token("ann", groups=["web"], sub=None),
    "of an unprintable subject": lambda p: p.token("ann\x1b[2J", groups=["web"]),
    "of an endless subject": lambda p: p.token("a" * 1000, groups=["web"]),
    "signed with another's key": lambda p: p.token("ann", groups=["web"], key=generate_private_key(65537, 2048)),
    "signed with nothing": lambda p: p.token("ann", groups=["web"], algorithm="none", key=""),
    "signed with the public key as secret": lambda p: _hmac_with_public_key(p),
    "changed after signing": lambda p: _changed(p.token("ann", groups=["sales"])),
    "of an algorithm that is not allowed": lambda p: p.token("ann", groups=["web"], algorithm="RS512"),
    "too long": lambda p: p.token("ann", groups=["web"], filler="x" * 20_000),
    "no token at all": lambda p: "a.b.c",
    "a list": lambda p: ".".join((_part({"alg": "RS256"}), _part(["web"]), "x")),
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_token_that_proves_nothing_is_refused(store: Store, provider: IdentityProvider, forgery: str) -> None:
    async with calling(store, company(provider)) as call:
        answer = await call("GET", "/v1/me", FORGERIES[forgery](provider))

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), answer.text


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _changed(token: str) -> str:
    header, _, signature = token.split(".")
    claims = jwt.decode(token, options={"verify_signature": False})
    return f"{header}.{_part(claims | {'groups': ['web-leads']})}.{signature}"


def _hmac_with_public_key(provider: IdentityProvider) -> str:
    """The classic: a verifier that takes the algorithm from the token takes the public key for a shared secret."""
    public = jwt.PyJWK.from_dict(provider.public_key()).key
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    honest = provider.token("ann", groups=["web"]).split(".")
    signed = f"{_part({'alg': 'HS256', 'kid': provider.public_key()['kid']})}.{honest[1]}"
    digest = hmac.new(pem, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


async def test_clock_may_be_off_by_the_leeway_and_no_more(store: Store, provider: IdentityProvider) -> None:
    async with calling(store, company(provider, leeway_s=300)) as call:
        just = await call("GET", "/v1/me", provider.token("ann", groups=["web"], exp=hour(-0.05), iat=hour(-1)))
        late = await call("GET", "/v1/me", provider.token("ann", groups=["web"], exp=hour(-0.2), iat=hour(-1)))

    assert (just.status_code, late.status_code) == (200, 401)


async def test_keys_are_fetched_once_and_again_when_the_issuer_changes_them() -> None:
    with IdentityProvider(audience="mimo").running() as provider:
        settings = IdentitySettings.model_validate({"issuers": [company(provider)]})
        clock = [0.0]
        tokens = Tokens(settings, clock=lambda: clock[0])
        for _ in range(3):
            await tokens.principals(provider.token("ann", groups=["web"]))
        assert provider.num_key_fetches == 1

        old = provider.token("ann", groups=["web"])
        provider.rotate()
        clock[0] += 60
        await tokens.principals(provider.token("ann", groups=["web"]))
        assert provider.num_key_fetches == 2
        with pytest.raises(TokenRefused):
            await tokens.principals(old)


async def test_made_up_key_ids_do_not_make_us_ask_the_issuer_each_time() -> None:
    with IdentityProvider(audience="mimo").running() as provider, IdentityProvider(audience="mimo").running() as other:
        tokens = Tokens(IdentitySettings.model_validate({"issuers": [company(provider)]}), clock=lambda: 0.0)
        for _ in range(5):
            other.rotate()
            with pytest.raises(TokenRefused):
                await tokens.principals(other.token("ann", groups=["web"], iss=provider.url))

        assert provider.num_key_fetches == 1


async def test_issuer_that_is_away_locks_nobody_out_whose_key_is_known(store: Store) -> None:
    with IdentityProvider(audience="mimo").running() as provider:
        clock = [0.0]
        settings = IdentitySettings.model_validate({"issuers": [company(provider)]})
        tokens, fresh = Tokens(settings, clock=lambda: clock[0]), Tokens(settings, clock=lambda: clock[0])
        token = provider.token("ann", groups=["web"])
        await tokens.principals(token)
        provider.away = True
        clock[0] += 7200

        assert await tokens.principals(token)
        with pytest.raises(IssuerUnreachable):
            await fresh.principals(token)
        async with calling(store, company(provider)) as call:
            answer = await call("GET", "/v1/me", token)

    assert (answer.status_code, answer.json()["code"]) == (503, "issuer_unreachable")
    assert answer.headers["retry-after"]


# Machines.


async def test_job_of_a_trusted_repository_acts_in_its_project_and_no_other_job_does(
    store: Store, provider: IdentityProvider
) -> None:
    """The claims of a token of GitHub Actions; the one who signs is a double."""
    claims = {"repository": "acme/web", "ref": "refs/heads/main"}
    grants = [{"project": "web", "scopes": ["tasks:read", "tasks:write"], "claims": claims}]
    actions = company(provider, name="github", kind="workload", grants=grants)
    subject = "repo:acme/web:ref:refs/heads/main"
    async with calling(store, actions) as call:
        ours = await call("GET", "/v1/me", provider.token(subject, **claims, run_id="17"))
        fork = await call("GET", "/v1/me", provider.token(subject, **(claims | {"repository": "evil/web"})))
        branch = await call("GET", "/v1/me", provider.token(subject, **(claims | {"ref": "refs/heads/mine"})))
        without = await call("GET", "/v1/me", provider.token(subject, repository="acme/web"))

    assert ours.json() == {
        "subject": f"github:{subject}",
        "kind": "workload",
        "project": "web",
        "scopes": ["tasks:read", "tasks:write"],
    }
    assert {answer.status_code for answer in (fork, branch, without)} == {403}


async def test_service_account_of_a_cluster_acts_in_its_project(
    store: Store, provider: IdentityProvider, tmp_path: Path
) -> None:
    """As Kubernetes has it: the audience is a list, and the keys are at an address of their own, shown a token."""
    (tmp_path / "token").write_text("the service's own token\n")
    account = "system:serviceaccount:ci:builder"
    cluster = company(
        provider,
        name="cluster",
        kind="workload",
        jwks_url=f"{provider.url}/keys",
        token_file=str(tmp_path / "token"),
        grants=[{"project": "data", "role": "member", "claims": {"sub": account}}],
    )
    async with calling(store, cluster) as call:
        ours = await call("GET", "/v1/me", provider.token(account, aud=["https://other.example", "mimo"]))
        other = await call("GET", "/v1/me", provider.token("system:serviceaccount:ci:default"))

    assert (ours.json()["subject"], ours.json()["project"]) == (f"cluster:{account}", "data")
    assert other.status_code == 403


@pytest.fixture
def foreign_provider() -> Iterator[str]:
    """One that shares no code with ours."""
    command = [sys.executable, "-u", "-m", "oidc_provider_mock", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if "running on" in line)
            yield re.findall(r"http://[\w.:]+", line)[0]
        finally:
            process.terminate()


async def test_somebody_elses_provider_is_understood(store: Store, foreign_provider: str) -> None:
    token = await _signed_in(foreign_provider, "ann")
    people = [{"project": "web", "role": "member", "claims": {"sub": "ann"}}]
    async with calling(store, company(IdentityProvider(url=foreign_provider), grants=people)) as call:
        answer = await call("GET", "/v1/me", token)

    assert answer.json()["subject"] == "company:ann", answer.text


async def _signed_in(provider: str, subject: str) -> str:
    async with httpx.AsyncClient(base_url=provider) as http:
        client = {"client_id": "mimo", "redirect_uri": "https://mimo.example/back"}
        asked = client | {"response_type": "code", "scope": "openid"}
        answer = await http.post("/oauth2/authorize", params=asked, data={"sub": subject})
        code = httpx.URL(answer.headers["location"]).params["code"]
        form = client | {"grant_type": "authorization_code", "code": code, "client_secret": "any"}
        given = await http.post("/oauth2/token", data=form)
    return str(given.json()["id_token"])
