"""Tasks of a repository on a git host: added by REST, fetched by the worker, with a token that nobody else sees."""

import base64
import logging

import pytest

from .conftest import CHECK, Hosted, Service, git

pytestmark = pytest.mark.anyio


async def test_a_task_of_a_git_host_comes_back_with_a_verified_patch(service: Service, hosted: Hosted) -> None:
    added = await service.add(hosted, checks=[CHECK])
    assert (added.status_code, added.json()["default_branch"]) == (201, "main")

    task = await service.done()
    assert (task["status"], task["verdict"]["kind"]) == ("succeeded", "verified"), task
    assert [check["command"] for check in task["checks"]] == [CHECK["command"]]


async def test_the_token_is_in_no_answer_event_prompt_log_or_file(
    service: Service, hosted: Hosted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = hosted.host.token
    await service.add(hosted)
    task = await service.done()
    broken = await service.done(base_commit="a" * 40)
    assert (task["status"], broken["status"]) == ("succeeded", "failed")
    hosted.host.token = "another"
    refused = await service.http.post("/v1/tasks", json={"repository": "calculator", "problem_statement": "x"})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_repository")
    for path in (f"/v1/tasks/{task['id']}/events?limit=1000", "/v1/repos", "/v1/audit"):
        await service.http.get(path)

    places = {"answers": "".join(service.told), "prompts": str(service.model.requests), "logs": caplog.text}
    for file in (*service.data.rglob("*"), *service.data.parent.glob("mimo.db*")):
        if file.is_file():
            places[str(file)] = file.read_bytes().decode("utf-8", "replace")
    forms = (token, base64.b64encode(f"x-access-token:{token}".encode()).decode())
    assert "spied" in places["prompts"]  # The model did look.
    assert [place for place, text in places.items() if any(form in text for form in forms)] == []


async def test_nothing_of_the_host_and_nothing_later_than_the_commit_is_in_the_sandbox(
    service: Service, hosted: Hosted
) -> None:
    await service.add(hosted)
    first = git(hosted.checkout, "rev-parse", "HEAD").strip()
    hosted.commit("answer.py", "the future")
    await service.done(base_commit=first)

    seen = str(service.model.requests)
    assert "spied" in seen
    assert [
        word for word in ("answer.py", hosted.url, "team/calculator", "refs/remotes", "origin") if word in seen
    ] == []


async def test_two_tasks_share_what_was_fetched(service: Service, hosted: Hosted) -> None:
    await service.add(hosted)
    await service.done()
    num_requests = len(hosted.host.requests)
    await service.done()

    # The branch is looked up for the second one too; its commit is there.
    fetched = [request for request in hosted.host.requests[num_requests:] if request.startswith("POST")]
    assert fetched == ["POST /team/calculator.git/git-upload-pack"]


async def test_another_project_sees_no_repository_and_none_of_its_name(service: Service, hosted: Hosted) -> None:
    await service.add(hosted)
    await service.http.post("/v1/projects", json={"id": "other"})
    other = {"Mimo-Project": "other"}

    assert (await service.http.get("/v1/repos", headers=other)).json() == {"repos": []}
    assert (await service.http.get("/v1/repos/calculator", headers=other)).status_code == 404
    task = {"repository": "calculator", "problem_statement": "x"}
    assert (await service.http.post("/v1/tasks", json=task, headers=other)).status_code == 422


async def test_a_wrong_credential_is_said_when_the_repository_is_added(service: Service, hosted: Hosted) -> None:
    hosted.host.token, right = "other", hosted.host.token
    await service.http.put("/v1/projects/default/secrets/GIT_TOKEN", json={"value": right})
    answer = await service.http.post(
        "/v1/repos", json={"name": "calculator", "url": hosted.url, "credential": "GIT_TOKEN"}
    )

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_repository")
    assert "Authentication failed" in answer.json()["detail"]


async def test_a_repository_is_changed_listed_and_removed(service: Service, hosted: Hosted) -> None:
    added = (await service.add(hosted)).json()
    assert (await service.add(hosted)).status_code == 409
    settings = {name: added[name] for name in added.keys() - {"name", "updated_by", "updated_at"}}
    changed = await service.http.put("/v1/repos/calculator", json=settings | {"checks": [CHECK]})
    assert changed.status_code == 200, changed.text
    listed = (await service.http.get("/v1/repos")).json()["repos"]
    assert [(repo["name"], len(repo["checks"])) for repo in listed] == [("calculator", 1)]

    assert (await service.http.delete("/v1/repos/calculator")).status_code == 204
    assert (await service.http.get("/v1/repos/calculator")).status_code == 404
    assert (await service.http.put("/v1/repos/calculator", json=settings)).status_code == 404


async def test_the_services_own_folder_is_no_repository(service: Service, hosted: Hosted) -> None:
    await service.add(hosted)
    await service.done()
    (cache,) = service.data.glob("remotes/default/*.git")
    commit = git(hosted.checkout, "rev-parse", "HEAD").strip()
    task = await service.done(repository=str(cache), base_commit=commit)

    assert (task["status"], "belongs to the service" in task["error"]) == ("failed", True)
