"""Merge requests by GitLab's REST API (docs.gitlab.com/api/merge_requests)."""

from urllib.parse import quote

from pydantic import BaseModel

from agent.integrations.forge import ForgeApi, NewPullRequest, PullRequest, WebAddress
from agent.integrations.remote import Reach


class GitLab:
    def __init__(self, url: str, path: str, token: str, reach: Reach) -> None:
        """
        Args:
            url: of the API, such as ``https://gitlab.com/api/v4``.
            path: of the project, with its groups.
        """
        self._api = ForgeApi(url, {"PRIVATE-TOKEN": token}, reach)
        self._merges = f"/projects/{quote(path, safe='')}/merge_requests"

    async def find(self, branch: str) -> PullRequest | None:
        found = await self._api.get(self._merges, list[_MergeRequest], source_branch=branch)
        return found[0].as_pull_request() if found else None

    async def open(self, wanted: NewPullRequest) -> PullRequest:
        body = {
            "title": f"Draft: {wanted.title}" if wanted.draft else wanted.title,  # their way to say it
            "description": wanted.body,
            "source_branch": wanted.branch,
            "target_branch": wanted.base,
        }
        return (await self._api.post(self._merges, _MergeRequest, body)).as_pull_request()


class _MergeRequest(BaseModel):
    iid: int
    web_url: WebAddress

    def as_pull_request(self) -> PullRequest:
        return PullRequest(self.iid, self.web_url)
