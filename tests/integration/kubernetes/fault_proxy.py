"""Stands in front of a real API server and makes its answers late, other or none."""

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from lightkube.config.client_adapter import AsyncClient, ConnectionParams
from lightkube.config.kubeconfig import KubeConfig

from tests.integration.model_server.serving import serving

REFUSALS = {
    403: ("Forbidden", "pods is forbidden: nobody may list them", {}),
    429: ("TooManyRequests", "the server is busy", {"Retry-After": "1"}),
    409: ("Conflict", "Operation cannot be fulfilled on resourcequotas: the object has been modified", {}),
    500: ("InternalError", "etcdserver: request timed out", {}),
    503: ("ServiceUnavailable", "the server is shutting down", {}),
}


class FaultProxy:
    """Passes calls on, but for the faults that a test sets."""

    def __init__(self, server: httpx2.AsyncClient) -> None:
        self.delay_s = 0.0
        """How late every answer is."""
        self.refusals: deque[int] = deque()
        """The next calls of pods that are no watches get these instead, by status."""
        self.lost_answers = 0
        """So many new pods are made, and their answers do not come."""
        self.calls: Counter[str] = Counter()
        """By method, "WATCH" for watches."""
        self._server = server
        self._cut = asyncio.Event()

    def cut_watches(self) -> None:
        self._cut.set()
        self._cut = asyncio.Event()

    async def answer(self, request: Request) -> Response:
        path = request.url.path
        is_watch = "watch" in request.query_params
        self.calls["WATCH" if is_watch else request.method] += 1
        await asyncio.sleep(self.delay_s)
        if self.refusals and not is_watch and "/pods" in path:
            return _refusal(self.refusals.popleft())
        content = await request.body()
        headers = {"Content-Type": request.headers.get("Content-Type", "application/json")}
        asked = self._server.build_request(
            request.method, path, params=dict(request.query_params), content=content, headers=headers
        )
        answer = await self._server.send(asked, stream=True)
        if is_watch:
            return StreamingResponse(self._until_cut(answer), answer.status_code)
        whole = await answer.aread()
        if request.method == "POST" and self.lost_answers:
            self.lost_answers -= 1
            return _refusal(503)
        return Response(whole, answer.status_code, media_type="application/json")

    async def _until_cut(self, answer: httpx2.Response) -> AsyncIterator[bytes]:
        cut = asyncio.create_task(self._cut.wait())
        parts = answer.aiter_raw()
        part = asyncio.create_task(anext(parts, b""))
        try:
            while (await asyncio.wait({part, cut}, return_when=asyncio.FIRST_COMPLETED))[0] == {part} and part.result():
                yield part.result()
                part = asyncio.create_task(anext(parts, b""))
        finally:
            for task in (part, cut):
                task.cancel()
            await asyncio.gather(part, cut, return_exceptions=True)
            await answer.aclose()


@asynccontextmanager
async def fault_proxy(kubeconfig: Path, folder: Path) -> AsyncIterator[tuple[FaultProxy, Path]]:
    """A proxy with the rights of this kubeconfig, and the kubeconfig by which to use it."""
    config = KubeConfig.from_file(kubeconfig).get()
    assert config is not None
    app = FastAPI()
    async with AsyncClient(config, ConnectionParams(timeout=None)) as server:
        proxy = FaultProxy(server)
        app.add_route("/{path:path}", proxy.answer, methods=["GET", "POST", "DELETE"])
        async with serving(app, drain_s=0) as address:
            through = folder / "kubeconfig-of-proxy"
            cluster = {"name": "proxy", "cluster": {"server": address}}
            context = {"name": "proxy", "context": {"cluster": "proxy", "user": "nobody"}}
            users = [{"name": "nobody", "user": {}}]
            whole = {"clusters": [cluster], "contexts": [context], "users": users, "current-context": "proxy"}
            through.write_text(json.dumps(whole))
            yield proxy, through


def _refusal(status: int) -> Response:
    reason, message, headers = REFUSALS[status]
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message}
    return Response(json.dumps({**body, "code": status}), status, headers, media_type="application/json")
