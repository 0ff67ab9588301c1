"""What is secret stays where it belongs: canaries in every secret of a service that works on a task."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography.fernet import Fernet

from agent.testing import ScriptedEndpoint, call, turns

from .conftest import Mimo, start

SPY = (
    "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; set; "
    "find / -maxdepth 3 -name '*.db' 2>/dev/null; cat ~/* ~/.* 2>/dev/null; echo spied"
)
NOSY = turns(
    call("bash", command=SPY, reasoning="Whatever this machine knows."),
    call("str_replace", path="calc.py", old_str="a - b", new_str="a + b"),
    call("finish", summary="add() adds"),
)


@dataclass(frozen=True, slots=True)
class Worked:
    """What a service left that had secrets, and worked on a task whose model looks for them."""

    canaries: dict[str, str]
    answers: str
    """Every answer of the API to a member of the project, its event log included."""
    prompts: str
    output: str
    """What the service wrote on its own streams."""
    data: Path


@pytest.fixture
def worked(mimo: Mimo, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worked:
    canaries = {
        "MIMO_API_KEY": secrets.token_hex(16),
        "MIMO_MODEL_API_KEY": secrets.token_hex(16),
        "MIMO_SECRETS_KEY": Fernet.generate_key().decode(),
    }
    for name, value in canaries.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MIMO_REPOSITORY_PATHS", str(checkout))
    model = ScriptedEndpoint(NOSY)
    with model.running() as model_url:
        process = start("serve", "--port", 0, "--model-url", model_url, home=tmp_path / "home")
        assert process.stderr is not None
        try:
            url = next(word for line in process.stderr if "ready" in line for word in line.split() if "http" in word)
            with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {canaries['MIMO_API_KEY']}"}) as http:
                canaries["project secret"] = secrets.token_hex(16)
                put = "/v1/projects/default/secrets/GIT_TOKEN"
                answers = [http.put(put, json={"value": canaries["project secret"]}).raise_for_status()]
                wanted = {"name": "a key", "scopes": ["tasks:read", "tasks:write"]}
                made = http.post("/v1/projects/default/api_keys", json=wanted).raise_for_status().json()
                canaries["API key"] = made["secret"].rpartition("_")[2]
                monkeypatch.setenv("MIMO_API_KEY", made["secret"])
                done = mimo("task", "submit", "add() subtracts", "--repo", checkout, "--watch", "--server", url)
                assert done.code == 0, done.err
                answers += [http.get(path) for path in _everything(http)]
        finally:
            process.terminate()
            rest = process.communicate(timeout=60)
    text = "".join(answer.text for answer in answers)
    return Worked(canaries, text, str(model.requests), "".join(rest), tmp_path / "home")


def _everything(http: httpx.Client) -> Iterator[str]:
    yield from ("/v1/tasks", "/v1/me", "/v1/audit", "/v1/projects", "/v1/projects/default/secrets")
    yield from ("/v1/projects/default/api_keys", "/v1/limits", "/v1/models", "/metrics", "/openapi.json")
    task_id = http.get("/v1/tasks").json()["tasks"][0]["id"]
    yield f"/v1/tasks/{task_id}"
    yield f"/v1/tasks/{task_id}/events?limit=1000"


def test_no_secret_is_in_an_answer_a_prompt_a_log_or_a_file_of_the_service(worked: Worked) -> None:
    places = {"answers": worked.answers, "prompts": worked.prompts, "output": worked.output}
    for file in worked.data.rglob("*"):
        if file.is_file():
            places[str(file.relative_to(worked.data))] = file.read_bytes().decode("utf-8", "replace")
    found = [
        (name, place) for name, value in worked.canaries.items() for place, text in places.items() if value in text
    ]

    assert "spied" in worked.prompts  # The model did look.
    assert "GIT_TOKEN" in worked.answers
    assert any(name.endswith(".db") for name in places)
    assert any(name.endswith(".log") for name in places)
    assert found == []
