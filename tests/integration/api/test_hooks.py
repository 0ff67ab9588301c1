"""What GitHub's webhooks say becomes tasks, if it is signed and somebody of the repository says it."""

import asyncio
import json
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet

from agent.api.app import create_app
from agent.integrations.github_hooks import sign
from agent.integrations.remote import Reach
from agent.repository import check_repository
from agent.store.base import RunResult, Store
from agent.store.secrets import SecretBox
from agent.testing import GitHost
from agent.types import Status

from .conftest import Serve

pytestmark = pytest.mark.anyio

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
SECRET = "GITHUB_WEBHOOK_SECRET"
MEMBER: dict[str, Any] = {"user": {"login": "octocat", "type": "User"}, "author_association": "MEMBER"}
PATCH = "diff --git a/calc.py b/calc.py\nnew file mode 100644\n--- /dev/null\n+++ b/calc.py\n@@ -0,0 +1 @@\n+x = 1\n"
AMENDED = "diff --git a/calc.py b/calc.py\n--- a/calc.py\n+++ b/calc.py\n@@ -1 +1 @@\n-x = 1\n+y = 1\n"
STRANGER: dict[str, Any] = {"user": {"login": "stranger", "type": "User"}, "author_association": "NONE"}


@dataclass
class GitHub:
    """Sends deliveries about one repository to a service."""

    http: httpx.AsyncClient
    host: GitHost
    store: Store
    secret: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def repo(self) -> dict[str, Any]:
        return {"url": f"{self.host.url}/team/calculator.git", "credential": "GIT_TOKEN", "forge": "github"}

    async def begin(self, project: str = "default") -> None:
        """Make the repository and the secret known to a project."""
        for name, value in ((SECRET, self.secret), ("GIT_TOKEN", self.host.token)):
            put = await self.http.put(f"/v1/projects/{project}/secrets/{name}", json={"value": value})
            assert put.status_code == 200, put.text
        wanted = {"name": "calculator", **self.repo}
        added = await self.http.post("/v1/repos", json=wanted, headers={"Mimo-Project": project})
        assert added.status_code == 201, added.text

    async def send(
        self, event: str, *, signature: str | None = None, project: str = "default", repository: str = "", **said: Any
    ) -> httpx.Response:
        name = repository or "team/calculator"
        where: dict[str, Any] = {
            "id": 1,
            "full_name": name,
            "clone_url": f"{self.host.url}/{name}.git",
            "ssh_url": f"git@localhost:{name}.git",
        }
        given = {"repository": where, "sender": {"login": "octocat", "type": "User"}} | said
        return await self.post(event, json.dumps(given).encode(), signature=signature, project=project)

    async def post(
        self, event: str, body: bytes, *, signature: str | None = None, project: str = "default"
    ) -> httpx.Response:
        given = {
            "Content-Type": "application/json",
            "X-GitHub-Delivery": secrets.token_hex(16),
            "X-GitHub-Event": event,
            "X-Hub-Signature-256": sign(self.secret, body) if signature is None else signature,
        }
        headers = httpx.Headers(given, encoding="latin-1")
        return await self.http.post(f"/v1/hooks/github/{project}", content=body, headers=headers)

    async def label(self, *, name: str = "mimo", **issue: Any) -> httpx.Response:
        return await self.send("issues", action="labeled", issue=_issue(**issue), label={"name": name})

    async def comment(self, body: str, *, by: dict[str, Any] = MEMBER, **issue: Any) -> httpx.Response:
        return await self.send("issue_comment", action="created", issue=_issue(**issue), comment={"body": body, **by})

    async def task(self, answer: httpx.Response) -> dict[str, Any]:
        assert answer.status_code == 202, answer.text
        task: dict[str, Any] = (await self.http.get(answer.headers["location"])).json()
        return task

    async def num_tasks(self) -> int:
        return len((await self.http.get("/v1/tasks")).json()["tasks"])

    async def end(self, patch: str = "") -> None:
        """Let the oldest waiting task end."""
        claim = await self.store.claim("worker", 3600)
        assert claim is not None
        await self.store.finish(claim.run_id, claim.generation, RunResult(status=Status.SUCCEEDED, patch=patch))

    def git(self, *arguments: str) -> str:
        """In the repository on the host."""
        bare = self.host.folder / "team/calculator.git"
        return subprocess.run(["git", *arguments], cwd=bare, check=True, capture_output=True, text=True).stdout.strip()

    async def extend(self, task_id: str, pull: dict[str, Any]) -> httpx.Response:
        wanted = {"title": "Call it y", "onto": pull["head"]["ref"].removeprefix("mimo/")}
        return await self.http.post(f"/v1/tasks/{task_id}/pull_request", json=wanted)

    async def pulled(self) -> dict[str, Any]:
        """A pull request that the service opened, as deliveries name it."""
        submitted = {"repository": "calculator", "problem_statement": "write calc.py", "checks": [{"command": "true"}]}
        task = (await self.http.post("/v1/tasks", json=submitted)).json()
        await self.end(PATCH)
        opened = await self.http.post(f"/v1/tasks/{task['id']}/pull_request", json={})
        assert opened.status_code == 201, opened.text
        return {
            "number": opened.json()["number"],
            "head": {"ref": opened.json()["branch"], "sha": "a" * 40, "repo": {"id": 1}},
        }

    async def review(self, pull: dict[str, Any], *, project: str = "default", **changed: Any) -> httpx.Response:
        review = {"id": 7, "state": "changes_requested", "body": "not like that"} | MEMBER | changed
        said: dict[str, Any] = {"action": "submitted", "pull_request": pull, "review": review}
        return await self.send("pull_request_review", project=project, **said)

    async def fail(self, pull: dict[str, Any], **changed: Any) -> httpx.Response:
        run = {"check_suite_id": 3, "name": "tests", "conclusion": "failure", "head_sha": "a" * 40}
        said = run | {"pull_requests": [pull]} | changed
        return await self.send("workflow_run", action="completed", workflow_run=said)


def _issue(**changed: Any) -> dict[str, Any]:
    return {"number": 12, "title": "add subtracts", "body": "add(1, 2) is -1", "labels": []} | STRANGER | changed


@pytest.fixture
def host(tmp_path: Path) -> Iterator[GitHost]:
    found = GitHost(tmp_path / "host", token=secrets.token_hex(16))
    with found.running():
        found.create("team/calculator.git")
        bare = found.folder / "team/calculator.git"
        tree = subprocess.run(["git", "mktree"], cwd=bare, check=True, capture_output=True, input=b"").stdout.decode()
        who = ("-c", "user.name=a", "-c", "user.email=a@localhost")
        made = ["git", *who, "commit-tree", "-m", "begin", tree.strip()]
        commit = subprocess.run(made, cwd=bare, check=True, capture_output=True, text=True).stdout.strip()
        subprocess.run(["git", "update-ref", "refs/heads/main", commit], cwd=bare, check=True)
        yield found


@pytest.fixture
async def github(store: Store, serve: Serve, host: GitHost) -> AsyncIterator[GitHub]:
    box = SecretBox(Fernet.generate_key().decode())
    app = create_app(store, check_repository, secret_box=box, reach=Reach(networks=LOOPBACK))
    async with serve(app) as url, httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:
        github = GitHub(http, host, store)
        await github.begin()
        yield github


async def test_a_labelled_issue_becomes_a_task(github: GitHub) -> None:
    task = await github.task(await github.label())

    assert task["repository"] == "calculator"
    assert task["problem_statement"].startswith("add subtracts\n\nadd(1, 2) is -1\n")
    assert "written by stranger. octocat labelled it." in task["problem_statement"]
    assert task["labels"] == {"github": "team/calculator#12"}
    assert task["created_by"] == "github/octocat"


async def test_a_comment_that_mentions_is_part_of_the_problem(github: GitHub) -> None:
    task = await github.task(await github.comment("@mimo keep the tests as they are"))

    assert task["problem_statement"].startswith("add subtracts\n")
    assert task["problem_statement"].endswith("octocat wrote there:\n\n@mimo keep the tests as they are")


async def test_an_issue_of_a_member_may_mention(github: GitHub) -> None:
    opened = await github.send("issues", action="opened", issue=_issue(body="Please, @Mimo.", **MEMBER))

    assert (await github.task(opened))["created_by"] == "github/octocat"


async def test_a_project_listens_to_a_word_of_its_own(github: GitHub) -> None:
    changed = await github.http.put("/v1/repos/calculator", json=github.repo | {"mention": "coder"})
    assert changed.status_code == 200, changed.text

    assert (await github.label(name="mimo")).status_code == 204
    assert (await github.label(name="Coder")).status_code == 202


async def test_a_comment_that_addresses_nobody_is_passed_over(github: GitHub) -> None:
    said = ["thanks", "mail team@mimo.example, or ask @mimo-bot", "> @mimo do it\n\nwhy did nothing happen?"]

    assert [(await github.comment(text)).status_code for text in said] == [204, 204, 204]
    assert await github.num_tasks() == 0


async def test_a_comment_of_a_stranger_or_of_a_program_asks_for_nothing(github: GitHub) -> None:
    program = {"user": {"login": "ci", "type": "Bot"}, "author_association": "MEMBER"}

    assert [(await github.comment("@mimo do it", by=who)).status_code for who in (STRANGER, program)] == [204, 204]
    assert await github.num_tasks() == 0


async def test_a_stranger_cannot_ask_by_an_issue_that_a_form_labels(github: GitHub) -> None:
    issue = _issue(body="@mimo do it", labels=[{"name": "mimo"}])
    stranger = {"login": "stranger", "type": "User"}
    opened = await github.send("issues", action="opened", issue=issue, sender=stranger)
    labelled = await github.send("issues", action="labeled", issue=issue, label={"name": "mimo"}, sender=stranger)

    assert (opened.status_code, labelled.status_code) == (204, 204)
    assert await github.num_tasks() == 0


async def test_other_events_are_passed_over(github: GitHub) -> None:
    assert {(await github.send(event)).status_code for event in ("ping", "push", "star", "")} == {204}


async def test_the_same_delivery_again_makes_no_second_task(github: GitHub) -> None:
    first = await github.label()
    again = await github.label()

    assert again.json() == first.json()
    assert again.headers["idempotent-replay"] == "true"
    assert await github.num_tasks() == 1


async def test_a_comment_reaches_the_task_that_works_on_the_issue(github: GitHub) -> None:
    first = (await github.label()).json()
    second = (await github.comment("@mimo and subtract, too")).json()

    assert second["task_id"] == first["task_id"]
    (message,) = (await github.http.get(f"/v1/tasks/{first['task_id']}/messages")).json()["messages"]
    assert (message["id"], message["state"]) == (second["message_id"], "queued")
    assert message["text"] == "octocat wrote there:\n\n@mimo and subtract, too"


async def test_two_comments_at_once_are_one_task(github: GitHub) -> None:
    answers = await asyncio.gather(github.comment("@mimo add adds"), github.comment("@mimo subtract subtracts"))

    assert len({answer.json()["task_id"] for answer in answers}) == 1
    assert [answer.json()["message_id"] is None for answer in answers].count(True) == 1
    assert await github.num_tasks() == 1


async def test_once_that_task_has_ended_a_comment_makes_a_new_one(github: GitHub) -> None:
    first = (await github.label()).json()
    await github.end()
    second = (await github.comment("@mimo that was not all")).json()

    assert second["task_id"] != first["task_id"]


async def test_what_is_not_signed_with_the_projects_secret_is_refused_alike(github: GitHub) -> None:
    await github.http.post("/v1/projects", json={"id": "other"})
    answers = [
        await github.send("ping", signature=""),
        await github.send("ping", signature=sign("guessed", b"{}")),
        await github.send("ping", signature="sha256=ü"),
        await github.send("ping", project="other"),
        await github.send("ping", project="nobodys"),
    ]

    assert {(answer.status_code, answer.json()["code"], answer.json()["detail"]) for answer in answers} == {
        (403, "wrong_signature", "The delivery is not signed with the secret of a project of this id.")
    }


async def test_a_repository_that_the_project_does_not_have_is_unknown(github: GitHub) -> None:
    answer = await github.send(
        "issues", action="labeled", issue=_issue(), label={"name": "mimo"}, repository="team/else"
    )

    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_repository")


async def test_a_signed_body_that_is_no_delivery_is_a_problem(github: GitHub) -> None:
    bodies = [b"{", b'{"issue": {"number": "12"}}', b'{"sender": {"login": "octo\\u0000cat"}}']
    answers = [await github.post("issues", body) for body in bodies]

    assert [answer.status_code for answer in answers] == [400, 422, 422]
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}


async def test_a_body_over_the_limit_is_refused(github: GitHub) -> None:
    assert (await github.comment("@mimo " + "x" * 2**21)).status_code == 413


async def test_who_asked_is_in_the_audit_log(github: GitHub) -> None:
    task_id = (await github.label()).json()["task_id"]
    (entry, *_) = (await github.http.get("/v1/audit")).json()["entries"]

    assert (entry["subject"], entry["action"]) == ("github/octocat", "POST /v1/hooks/github/{project_id}")
    assert entry["target"] == f"/v1/tasks/{task_id}"


async def test_a_sender_who_asks_too_often_is_told_to_wait(store: Store, serve: Serve, host: GitHost) -> None:
    box = SecretBox(Fernet.generate_key().decode())
    app = create_app(store, check_repository, secret_box=box, reach=Reach(networks=LOOPBACK), requests_per_minute=3)
    async with serve(app) as url, httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:
        github = GitHub(http, host, store)
        await github.begin()
        answers = [await github.comment(f"@mimo number {number}") for number in range(4)]

    assert [answer.status_code for answer in answers] == [202, 202, 202, 429]
    assert "retry-after" in answers[-1].headers


async def test_a_review_that_asks_for_changes_is_a_task_on_the_branch(github: GitHub) -> None:
    pull = await github.pulled()
    github.host.remarks.append({"pull_request_review_id": 7, "path": "calc.py", "line": 1, "body": "call it y"})
    github.host.remarks.append({"pull_request_review_id": 8, "path": "calc.py", "line": 1, "body": "of another review"})
    task = await github.task(await github.review(pull))

    assert task["base_commit"] == github.git("rev-parse", pull["head"]["ref"])
    assert task["problem_statement"] == (
        "write calc.py\n\nOut of this came pull request team/calculator#1; the files are as it has them. "
        "octocat asks for changes:\n\nnot like that\n\n`calc.py`, line 1: call it y"
    )
    assert [check["command"] for check in task["checks"]] == ["true"]
    assert task["labels"] == {"github": "team/calculator#1"}


async def test_what_is_said_next_reaches_the_task_that_works_on_the_pull_request(github: GitHub) -> None:
    pull = await github.pulled()
    first = (await github.review(pull)).json()
    comment = {"body": "@mimo and test it", "path": "calc.py", "line": 1, **MEMBER}
    remarked = await github.send("pull_request_review_comment", action="created", pull_request=pull, comment=comment)
    commented = await github.comment("@mimo thanks", number=pull["number"], pull_request={})

    assert [answer.json()["task_id"] for answer in (remarked, commented)] == [first["task_id"]] * 2
    messages = (await github.http.get(f"/v1/tasks/{first['task_id']}/messages")).json()["messages"]
    assert [message["text"] for message in messages] == [
        "octocat wrote to `calc.py`, line 1:\n\n@mimo and test it",
        "octocat wrote there:\n\n@mimo thanks",
    ]


async def test_failed_checks_are_a_task_that_says_which(github: GitHub) -> None:
    pull = await github.pulled()
    output = {"title": "1 failed", "summary": "test_add: assert -1 == 3"}
    github.host.check_runs.append({"name": "unit", "conclusion": "failure", "output": output})
    github.host.check_runs.append({"name": "lint", "conclusion": "success", "output": output})
    task = await github.task(await github.fail(pull))

    assert task["problem_statement"].endswith(
        f"Checks of tests failed on commit {'a' * 12}.\n\n- unit: failure\n1 failed\ntest_add: assert -1 == 3"
    )


async def test_a_suite_of_another_program_may_fail_too(github: GitHub) -> None:
    pull = await github.pulled()
    suite = {"id": 3, "conclusion": "timed_out", "head_sha": "a" * 40, "pull_requests": [pull], "app": {"slug": "ci"}}
    failed = await github.send("check_suite", action="completed", check_suite=suite)
    actions = suite | {"app": {"slug": "github-actions"}}
    told_elsewhere = await github.send("check_suite", action="completed", check_suite=actions)

    assert "Checks of ci failed" in (await github.task(failed))["problem_statement"]
    assert told_elsewhere.status_code == 204


async def test_what_is_no_objection_to_a_pull_request_of_ours_is_passed_over(github: GitHub) -> None:
    pull = await github.pulled()
    answers = [
        await github.review(pull, state="approved"),
        await github.review(pull, **STRANGER),
        await github.review(pull | {"head": pull["head"] | {"repo": {"id": 2}}}),
        await github.review(pull | {"head": pull["head"] | {"ref": "feature"}}),
        await github.review(pull | {"head": pull["head"] | {"ref": "mimo/task_unknown"}}),
        await github.comment("who wrote this?", number=pull["number"], pull_request={}),
        await github.fail(pull, conclusion="success"),
        await github.fail(pull, head_sha="b" * 40),
        await github.fail(pull, pull_requests=[]),
    ]

    assert [answer.status_code for answer in answers] == [204] * len(answers)
    assert await github.num_tasks() == 1


async def test_a_host_that_does_not_tell_what_is_needed_is_named(github: GitHub) -> None:
    pull = await github.pulled()
    await github.http.put("/v1/projects/default/secrets/GIT_TOKEN", json={"value": "revoked"})
    answer = await github.review(pull)

    assert (answer.status_code, answer.json()["code"]) == (409, "forge_refused")
    assert "answers 401" in answer.json()["detail"]


async def test_what_came_of_a_review_is_added_to_the_pull_request(github: GitHub) -> None:
    pull = await github.pulled()
    task_id = (await github.review(pull)).json()["task_id"]
    await github.end(AMENDED)
    answers = [await github.extend(task_id, pull), await github.extend(task_id, pull)]
    branch = pull["head"]["ref"]

    assert [(each.status_code, each.json()["number"]) for each in answers] == [(200, pull["number"])] * 2
    assert github.git("log", "--format=%s", branch).splitlines() == ["Call it y", "write calc.py", "begin"]
    assert github.git("show", f"{branch}:calc.py") == "y = 1"
    assert len(github.host.pulls) == 1


async def test_nothing_is_added_to_a_branch_that_somebody_pushed_to(github: GitHub) -> None:
    pull = await github.pulled()
    task_id = (await github.review(pull)).json()["task_id"]
    await github.end(AMENDED)
    who = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    branch = pull["head"]["ref"]
    theirs = github.git(*who, "commit-tree", "-m", "by hand", "-p", branch, f"{branch}^{{tree}}")
    github.git("update-ref", f"refs/heads/{branch}", theirs)
    answer = await github.extend(task_id, pull)

    assert (answer.status_code, answer.json()["code"]) == (409, "pull_request_refused")
    assert github.git("rev-parse", branch) == theirs


async def test_nothing_is_added_to_what_no_task_of_the_project_opened(github: GitHub) -> None:
    pull = await github.pulled()
    task_id = (await github.review(pull)).json()["task_id"]
    await github.end(AMENDED)
    answer = await github.extend(task_id, pull | {"head": {"ref": "mimo/task_unknown"}})

    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_task")


async def test_a_project_does_not_answer_for_the_tasks_of_another(github: GitHub) -> None:
    pull = await github.pulled()
    await github.http.post("/v1/projects", json={"id": "other"})
    await github.begin("other")

    assert (await github.review(pull, project="other")).status_code == 204
    assert (await github.review(pull, project="default")).status_code == 202
