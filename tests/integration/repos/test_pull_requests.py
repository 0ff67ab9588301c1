"""From a patch to a pull request, on a host with GitHub's API and with GitLab's."""

from typing import Any

import httpx
import pytest

from .conftest import CHECK, Hosted, Service, git

pytestmark = pytest.mark.anyio


async def _ask(service: Service, task: dict[str, Any], **wanted: Any) -> httpx.Response:
    return await service.http.post(f"/v1/tasks/{task['id']}/pull_request", json=wanted)


@pytest.mark.parametrize(("forge", "base"), [("github", "base"), ("gitlab", "target_branch")])
async def test_a_patch_becomes_a_branch_and_a_pull_request(
    service: Service, hosted: Hosted, forge: str, base: str
) -> None:
    await service.add(hosted, forge=forge, checks=[CHECK])
    task = await service.done()
    answer = await _ask(service, task, title="Let add add")

    assert answer.status_code == 201, answer.text
    branch = answer.json()["branch"]
    assert git(hosted.bare, "show", f"{branch}:calc.py") == "def add(a, b):\n    return a + b\n"
    assert git(hosted.bare, "log", "--format=%s", branch).splitlines() == ["Let add add", "write calc.py"]
    (pull,) = hosted.host.pulls
    assert (pull["repository"], pull["title"], pull[base]) == ("team/calculator", "Let add add", "main")
    assert answer.headers["location"] == pull["html_url"]


async def test_asked_again_it_is_the_same_one_and_its_branch_is_left_alone(service: Service, hosted: Hosted) -> None:
    await service.add(hosted, forge="github")
    task = await service.done()
    first = (await _ask(service, task)).json()
    moved = git(hosted.bare, "rev-parse", "main").strip()
    git(hosted.bare, "update-ref", f"refs/heads/{first['branch']}", moved)
    second = await _ask(service, task, title="Another title")

    assert (second.status_code, second.json()) == (200, first | {"created": False})
    assert git(hosted.bare, "rev-parse", first["branch"]).strip() == moved
    assert len(hosted.host.pulls) == 1


async def test_what_the_model_did_not_change_cannot_be_pulled(service: Service, hosted: Hosted) -> None:
    await service.add(hosted, forge="github")
    waiting = await service.submit()
    assert (await _ask(service, waiting)).json()["code"] == "task_not_ended"
    await service.http.post(f"/v1/tasks/{waiting['id']}/cancel")
    assert (await _ask(service, waiting)).json()["code"] == "no_patch"

    answer = await _ask(service, await service.done(repository=str(hosted.checkout)))
    assert (answer.status_code, answer.json()["code"]) == (409, "no_remote")


async def test_a_host_of_unknown_kind_is_asked_for(service: Service, hosted: Hosted) -> None:
    await service.add(hosted)
    answer = await _ask(service, await service.done())

    assert (answer.status_code, answer.json()["code"]) == (409, "pull_request_refused")
    assert "says no forge" in answer.json()["detail"]
    assert git(hosted.bare, "branch", "--list", "mimo/*") == ""
