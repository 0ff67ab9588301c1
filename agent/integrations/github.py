"""Pull requests by GitHub's REST API (docs.github.com/rest/pulls/pulls), which others speak too."""

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
        self._pulls = f"/repos/{path}/pulls"

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
