"""``mimo`` as a user calls it, against ``mimo serve``, with a repository on a git host."""

from collections.abc import Iterator

import httpx
import pytest
from cryptography.fernet import Fernet

from agent.testing import ScriptedEndpoint, turns
from tests.integration.cli.conftest import Mimo, start
from tests.integration.cli.conftest import mimo as mimo

from .conftest import CHECK, REPAIR, Hosted


@pytest.fixture
def serving(mimo: Mimo, hosted: Hosted, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a service that has the host's token as a secret; ``mimo`` calls it."""
    monkeypatch.setenv("MIMO_SECRETS_KEY", Fernet.generate_key().decode())
    monkeypatch.setenv("MIMO_REPOSITORY_NETWORKS", "127.0.0.0/8,::1/128")
    monkeypatch.setenv("MIMO_REPOSITORY_CA", str(hosted.reach.ca_file))
    with ScriptedEndpoint(turns(*REPAIR)).running() as model_url:
        process = start("serve", "--port", 0, "--model-url", model_url, home=hosted.checkout.parent / "served")
        assert process.stderr is not None
        try:
            url = next(word for line in process.stderr if "ready" in line for word in line.split() if "http" in word)
            secret = f"{url}/v1/projects/default/secrets/GIT_TOKEN"
            httpx.put(secret, json={"value": hosted.host.token}, trust_env=False).raise_for_status()
            monkeypatch.setenv("MIMO_SERVER_URL", url)
            yield url
        finally:
            process.terminate()
            process.communicate(timeout=60)


def test_a_repository_is_added_worked_on_and_given_a_pull_request(serving: str, mimo: Mimo, hosted: Hosted) -> None:
    options = ("--credential", "GIT_TOKEN", "--check", CHECK["command"], "--forge", "github")
    added = mimo("repo", "add", "calculator", hosted.url, *options)
    assert added.code == 0, added.err
    assert "calculator" in mimo("repo", "list").out
    done = mimo("task", "submit", "add subtracts", "--repo", "calculator", "--watch")
    assert done.code == 0, done.err

    task_id = httpx.get(f"{serving}/v1/tasks", trust_env=False).json()["tasks"][0]["id"]
    opened = mimo("task", "pr", task_id, "--title", "Let add add")
    assert (opened.code, opened.out.strip()) == (0, hosted.host.pulls[0]["html_url"])
    assert mimo("repo", "remove", "calculator").code == 0
    assert mimo("repo", "show", "calculator").code == 2
