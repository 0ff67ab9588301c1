"""``mimo`` as a user calls it, against ``mimo serve``, with a repository on a git host."""

import httpx

from tests.integration.cli.conftest import Mimo

from .conftest import CHECK, Hosted


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
