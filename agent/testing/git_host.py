"""A git host on loopback: real git behind its smart HTTP protocol and a password, and pull requests by its API.

The API is what GitHub's is as far as ``agent.integrations.forge`` uses it, and GitLab's.
"""

import asyncio
import base64
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from agent.testing.serving import serving


@dataclass(slots=True)
class GitHost:
    """Serves the bare repositories under ``folder``. Use :meth:`running`; ``url`` is its address."""

    folder: Path
    token: str = ""
    """What callers must show as password or bearer; empty lets everybody in."""
    url: str = ""
    redirect_to: str = ""
    """Where requests for repositories are sent instead, if anywhere."""
    requests: list[str] = field(default_factory=list)
    """Method and path of each, in order."""
    pulls: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[dict[str, Any]] = field(default_factory=list)
    """Comments at lines of any pull request, oldest first."""
    check_runs: list[dict[str, Any]] = field(default_factory=list)
    """Of any suite."""

    @contextmanager
    def running(self, certificate: Path | None = None) -> Iterator["GitHost"]:
        """Serve on a free port in a thread; by TLS where a file with a key and its certificate is given."""
        with serving(self.app, certificate=certificate) as port:
            self.url = f"http{'s' if certificate else ''}://localhost:{port}"
            yield self

    def create(self, path: str) -> str:
        """An empty repository such as ``team/calculator.git``; its address."""
        place = self.folder / path
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(place)], check=True)
        subprocess.run(["git", "config", "http.receivepack", "true"], cwd=place, check=True)
        return f"{self.url}/{path}"

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/api/v3/repos/{owner}/{name}/pulls", self._pulls, methods=["GET", "POST"]),
                Route("/api/v3/repos/{owner}/{name}/pulls/{number:int}", self._pull),
                Route("/api/v3/repos/{owner}/{name}/pulls/{number:int}/comments", self._remarks),
                Route("/api/v3/repos/{owner}/{name}/check-suites/{suite:int}/check-runs", self._check_runs),
                Route("/api/v4/projects/{project:path}/merge_requests", self._merges, methods=["GET", "POST"]),
                Route("/{path:path}", self._git, methods=["GET", "POST"]),
            ]
        )

    def _knows(self, request: Request) -> bool:
        self.requests.append(f"{request.method} {request.url.path}")
        basic, _, given = request.headers.get("authorization", "").partition(" ")
        if basic.lower() == "basic":
            given = base64.b64decode(given).decode().partition(":")[2]
        return not self.token or self.token in (given, request.headers.get("private-token"))

    async def _git(self, request: Request) -> Response:
        """By git's own CGI program (git-http-backend(1))."""
        if not self._knows(request):
            return Response("sign in", 401, {"WWW-Authenticate": 'Basic realm="git"'})
        if self.redirect_to:
            return RedirectResponse(f"{self.redirect_to}{request.url.path}?{request.url.query}")
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "HOME": os.devnull,
            "REMOTE_USER": "user",
            "REQUEST_METHOD": request.method,
            "PATH_INFO": request.url.path,
            "QUERY_STRING": request.url.query,
            "CONTENT_TYPE": request.headers.get("content-type", ""),
            "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding", ""),
            "GIT_PROTOCOL": request.headers.get("git-protocol", ""),
        }
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            "git", "http-backend", env=environment, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
        )
        output, _ = await process.communicate(await request.body())
        head, _, body = output.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200 OK").split()[0])
        return Response(body, status, headers)

    async def _pulls(self, request: Request) -> Response:
        if not self._knows(request):
            return JSONResponse({"message": "Bad credentials"}, 401)
        where = f"{request.path_params['owner']}/{request.path_params['name']}"
        if request.method == "GET":
            owner, _, branch = request.query_params["head"].partition(":")
            found = [pull for pull in self.pulls if (where, branch) == (pull["repository"], pull["head"])]
            return JSONResponse(found if owner == request.path_params["owner"] else [])
        return self._open(where, await request.json(), "pull")

    async def _pull(self, request: Request) -> Response:
        """One of the repository's own branches."""
        if not self._knows(request):
            return JSONResponse({"message": "Bad credentials"}, 401)
        pull = self.pulls[request.path_params["number"] - 1]
        return JSONResponse(pull | {"head": {"ref": pull["head"], "repo": {"id": 1}}, "base": {"repo": {"id": 1}}})

    async def _remarks(self, request: Request) -> Response:
        return JSONResponse(self.remarks[::-1]) if self._knows(request) else JSONResponse({}, 401)

    async def _check_runs(self, request: Request) -> Response:
        return JSONResponse({"check_runs": self.check_runs}) if self._knows(request) else JSONResponse({}, 401)

    async def _merges(self, request: Request) -> Response:
        if not self._knows(request):
            return JSONResponse({"message": "401 Unauthorized"}, 401)
        where = request.path_params["project"]
        if request.method == "GET":
            branch = request.query_params["source_branch"]
            found = [pull for pull in self.pulls if (where, branch) == (pull["repository"], pull["source_branch"])]
            return JSONResponse(found)
        return self._open(where, await request.json(), "-/merge_requests")

    def _open(self, where: str, wanted: dict[str, Any], word: str) -> Response:
        number = len(self.pulls) + 1
        address = f"{self.url}/{where}/{word}/{number}"
        pull = wanted | {"repository": where, "number": number, "iid": number, "html_url": address, "web_url": address}
        self.pulls.append(pull)
        return JSONResponse(pull, 201)
