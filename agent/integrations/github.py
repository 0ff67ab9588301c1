"""Pull requests by GitHub's REST API (docs.github.com/rest/pulls/pulls), which others speak too."""

from pydantic import BaseModel

from agent.integrations.forge import ForgeApi, NewPullRequest, PullRequest, WebAddress
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
        found = await self._api.get(self._pulls, list[_Pull], head=f"{self._owner}:{branch}", state="all")
        return found[0].as_pull_request() if found else None

    async def open(self, wanted: NewPullRequest) -> PullRequest:
        body = {
            "title": wanted.title,
            "body": wanted.body,
            "head": wanted.branch,
            "base": wanted.base,
            "draft": wanted.draft,
        }
        return (await self._api.post(self._pulls, _Pull, body)).as_pull_request()

    async def branch(self, number: int) -> str | None:
        """What a pull request would merge; None where that is in another repository."""
        found = await self._api.get(f"{self._pulls}/{number}", _Branches)
        return found.head.ref if found.head.repo == found.base.repo else None

    async def remarks(self, number: int, review: int) -> list[str]:
        """What a review says at lines, oldest first; of the newest hundred of the pull request."""
        path = f"{self._pulls}/{number}/comments"
        found = await self._api.get(path, list[_Remark], sort="created", direction="desc", per_page="100")
        return [each.in_words() for each in reversed(found) if each.pull_request_review_id == review]

    async def failed_checks(self, suite: int) -> list[str]:
        """Names and outcomes, with what the checks say of it themselves."""
        path = f"{self._repository}/check-suites/{suite}/check-runs"
        found = await self._api.get(path, _CheckRuns, per_page="100")
        return [each.in_words() for each in found.check_runs if each.conclusion in FAILED]


FAILED = frozenset({"failure", "timed_out", "startup_failure"})
"""Conclusions of checks that somebody has to do something about."""

_MOST_CHARS = 4000


class _Pull(BaseModel):
    number: int
    html_url: WebAddress

    def as_pull_request(self) -> PullRequest:
        return PullRequest(self.number, self.html_url)


class _Repository(BaseModel):
    id: int


class _Base(BaseModel):
    repo: _Repository


class _Head(BaseModel):
    ref: str
    repo: _Repository | None
    """None where it was deleted."""


class _Branches(BaseModel):
    head: _Head
    base: _Base


class _Remark(BaseModel):
    pull_request_review_id: int | None
    path: str
    line: int | None = None
    body: str

    def in_words(self) -> str:
        line = f", line {self.line}" if self.line else ""
        return f"`{self.path}`{line}: {self.body[:_MOST_CHARS]}"


class _CheckOutput(BaseModel):
    title: str | None
    summary: str | None


class _CheckRun(BaseModel):
    name: str
    conclusion: str | None
    output: _CheckOutput

    def in_words(self) -> str:
        said = "\n".join(filter(None, (self.output.title, self.output.summary)))
        return f"- {self.name}: {self.conclusion}\n{said[:_MOST_CHARS]}".rstrip()


class _CheckRuns(BaseModel):
    check_runs: list[_CheckRun]
