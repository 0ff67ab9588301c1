"""A real cluster's service accounts call the service with the tokens the cluster gives them."""

import base64
from pathlib import Path

import httpx
import pytest
import yaml

from agent.api.app import create_app
from agent.api.issuers import IdentitySettings
from agent.store.base import Project
from agent.store.open import open_store
from deploy.cluster.cluster import Cluster

pytestmark = pytest.mark.anyio


async def test_service_account_acts_in_the_project_that_trusts_it(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    server = yaml.safe_load(cluster.kubeconfig.read_text())["clusters"][0]["cluster"]
    (tmp_path / "ca.crt").write_bytes(base64.b64decode(server["certificate-authority-data"]))
    cluster.kubectl("create", "serviceaccount", "builder", f"--namespace={namespace}")
    (tmp_path / "token").write_text(_token(cluster, namespace, "default", ""))
    account = f"system:serviceaccount:{namespace}:builder"
    issuer = {
        "name": "cluster",
        "url": "https://kubernetes.default.svc",
        "audience": "mimo-coder",
        "kind": "workload",
        "algorithms": ["RS256", "ES256"],
        "jwks_url": f"{server['server']}/openid/v1/jwks",
        "ca_file": str(tmp_path / "ca.crt"),
        "token_file": str(tmp_path / "token"),
        "grants": [{"project": "data", "role": "member", "claims": {"sub": account}}],
    }
    async with open_store("sqlite://") as store:
        await store.make_project(Project(project_id="data"))
        app = create_app(store, _resolve, identity=IdentitySettings.model_validate({"issuers": [issuer]}))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://mimo.example") as http:
            ours = await _me(http, _token(cluster, namespace, "builder", "mimo-coder"))
            for_others = await _me(http, _token(cluster, namespace, "builder", "vault"))
            other = await _me(http, _token(cluster, namespace, "default", "mimo-coder"))

    assert ours.status_code == 200, ours.text
    assert (ours.json()["subject"], ours.json()["project"]) == (f"cluster:{account}", "data")
    assert (for_others.status_code, other.status_code) == (401, 403)


def _token(cluster: Cluster, namespace: str, account: str, audience: str) -> str:
    wanted = [f"--audience={audience}"] if audience else []
    return cluster.kubectl("create", "token", account, f"--namespace={namespace}", *wanted).strip()


async def _me(http: httpx.AsyncClient, token: str) -> httpx.Response:
    return await http.get("/v1/me", headers={"Authorization": f"Bearer {token}"})


async def _resolve(path: Path, commit: str) -> str:
    return "c" * 40
