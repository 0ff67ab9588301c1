"""Dashboards and alerts ask for what is really exported, and say what they should."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from agent.api.metrics import ApiMetrics
from agent.orchestrator.metrics import WorkerMetrics
from deploy.dashboards.__main__ import text
from deploy.dashboards.panels import ALL, Dashboard
from model_server.server.metrics import Metrics
from model_server.types import CacheStats, EngineStats
from sandbox.pool.config import PoolSettings
from sandbox.pool.pool import WarmPool
from sandbox.reaper.reaper import Reaper
from sandbox.testing.memory_registry import MemoryRegistry
from sandbox.testing.simulated import SimulatedBackend, SimulatedHosts
from sandbox.toolbox.keepers import Keepers
from tests.unit.model_server.canned_engine import CannedEngine

DEPLOY = Path(__file__).parents[3] / "deploy"
RULES = sorted((DEPLOY / "alerts").glob("*.yaml"))
SERIES = re.compile(r"\b(?:mimo[_:]|sglang:)\w+")
INTERVAL = "$__rate_interval"

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is missing")


class CachingEngine(CannedEngine):
    def stats(self) -> EngineStats:
        counts = dict.fromkeys(CacheStats.__slots__, 1)
        return EngineStats(running=1, waiting=1, context_length=1, cache=CacheStats(**counts))


@pytest.fixture(scope="module")
def exported() -> set[str]:
    """The names of all samples that our processes export."""
    api = ApiMetrics().text({}, oldest_queued_s=0, open_streams={"events": 0}, num_pending_deliveries=0)
    worker, backend = WorkerMetrics(), SimulatedBackend(SimulatedHosts())
    worker.watch(Keepers(WarmPool(backend, PoolSettings()), Reaper(backend, MemoryRegistry())))
    text = b"".join((api, worker.text(taking_runs=True), Metrics(CachingEngine(), "model").text())).decode()
    return {name for family in text_string_to_metric_families(text) for name in sample_names(family.name, family.type)}


def sample_names(name: str, kind: str) -> Iterable[str]:
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(kind, [""])
    return [name + ending for ending in endings]


def rules() -> Iterator[dict[str, str]]:
    for file in RULES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from group["rules"]


def queries(dashboard: Dashboard) -> Iterator[str]:
    for panel in json.loads(text(dashboard))["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("dashboard", ALL, ids=lambda dashboard: dashboard.uid)
def test_a_dashboards_file_is_what_its_panels_say(dashboard: Dashboard) -> None:
    written = (DEPLOY / "dashboards" / f"{dashboard.uid}.json").read_text()
    assert written == text(dashboard), "write it again: python -m deploy.dashboards"


@pytest.mark.parametrize("dashboard", ALL, ids=lambda dashboard: dashboard.uid)
def test_every_panel_has_its_own_place(dashboard: Dashboard) -> None:
    places = [panel["gridPos"] for panel in json.loads(text(dashboard))["panels"]]
    taken = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


@pytest.mark.parametrize("dashboard", ALL, ids=lambda dashboard: dashboard.uid)
def test_every_series_of_a_dashboard_is_exported(dashboard: Dashboard, exported: set[str]) -> None:
    asked = {name for query in queries(dashboard) for name in SERIES.findall(query)}
    assert asked
    assert asked <= exported


def test_every_series_of_an_alert_is_exported(exported: set[str]) -> None:
    assert {name for rule in rules() for name in SERIES.findall(rule["expr"])} <= exported


@needs_promtool
@pytest.mark.parametrize("dashboard", ALL, ids=lambda dashboard: dashboard.uid)
def test_every_query_of_a_dashboard_can_be_asked(dashboard: Dashboard, tmp_path: Path) -> None:
    recorded = [
        {"record": f"query{number}", "expr": query.replace(INTERVAL, "5m")}
        for number, query in enumerate(queries(dashboard))
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": recorded}]}))
    promtool("check", "rules", str(tmp_path / "rules.yaml"))


@needs_promtool
@pytest.mark.parametrize("file", RULES, ids=lambda file: file.name)
def test_alerts_say_what_their_tests_expect(file: Path) -> None:
    promtool("test", "rules", str(file.parent / "tests" / file.name))


def test_every_alert_is_seen_to_fire_by_a_test() -> None:
    seen = "".join((file.parent / "tests" / file.name).read_text() for file in RULES)
    fired = set(re.findall(r'ALERTS\{alertname="(\w+)", alertstate="firing"', seen))
    assert {rule["alert"] for rule in rules()} == fired


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "action"}
