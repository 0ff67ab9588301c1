"""Pull requests by GitHub's REST API (docs.github.com/rest/pulls/pulls), which others speak too."""

from typing import Any

from agent.integrations.forge import ForgeApi, NewPullRequest, PullRequest
from agent.integrations.remote import Reach


class GitHub:
    def __init__(self, url: str, path: str, token: str, reach: Reach) -> None:
        """
        Args:
            url: of the API, such as ``https://api.github.com``.
            path: ``OWNER/NAME``.
        """
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"}
        self._api = ForgeApi(url, headers, reach)
        self._owner = path.partition("/")[0]
        self._repository = f"/repos/{path}"
        self._pulls = f"{self._repository}/pulls"

    async def find(self, branch: str) -> PullRequest | None:
        found = await self._api.get(self._pulls, head=f"{self._owner}:{branch}", state="all")
        return PullRequest(found[0]["number"], found[0]["html_url"]) if found else None

    async def open(self, wanted: NewPullRequest) -> PullRequest:
        body = {
            "title": wanted.title,
            "body": wanted.body,
            "head": wanted.branch,
            "base": wanted.base,
            "draft": wanted.draft,
        }
        made = await self._api.post(self._pulls, body)
        return PullRequest(made["number"], made["html_url"])

    async def branch(self, number: int) -> str | None:
        """What a pull request would merge; None where that is in another repository."""
        found = await self._api.get(f"{self._pulls}/{number}")
        head, base = found["head"], found["base"]
        return str(head["ref"]) if head["repo"] and head["repo"]["id"] == base["repo"]["id"] else None

    async def remarks(self, number: int, review: int) -> list[str]:
        """What a review says at lines, oldest first; of the newest hundred of the pull request."""
        found = await self._api.get(
            f"{self._pulls}/{number}/comments", sort="created", direction="desc", per_page="100"
        )
        return [_remark(each) for each in reversed(found) if each["pull_request_review_id"] == review]

    async def failed_checks(self, suite: int) -> list[str]:
        """Names and outcomes, with what the checks say of it themselves."""
        found = await self._api.get(f"{self._repository}/check-suites/{suite}/check-runs", per_page="100")
        return [_failure(each) for each in found["check_runs"] if each["conclusion"] in FAILED]


FAILED = frozenset({"failure", "timed_out", "startup_failure"})
"""Conclusions of checks that somebody has to do something about."""

_MOST_CHARS = 4000


def _remark(comment: dict[str, Any]) -> str:
    line = f", line {comment['line']}" if comment.get("line") else ""
    return f"`{comment['path']}`{line}: {comment['body'][:_MOST_CHARS]}"


def _failure(check: dict[str, Any]) -> str:
    output = check["output"]
    said = "\n".join(filter(None, (output["title"], output["summary"])))
    return f"- {check['name']}: {check['conclusion']}\n{said[:_MOST_CHARS]}".rstrip()
