"""``python -m deploy.dashboards``: write the dashboards beside this file, as Grafana 10 and later read them."""

import json
from pathlib import Path
from typing import Any

from deploy.dashboards.panels import ALL, Dashboard, Panel

_WIDTH = 24
_HEIGHTS = {"stat": 4, "timeseries": 8}
_SOURCE = {"type": "prometheus", "uid": "${source}"}


def main() -> None:
    for dashboard in ALL:
        Path(__file__).with_name(f"{dashboard.uid}.json").write_text(text(dashboard))


def text(dashboard: Dashboard) -> str:
    """The file of a dashboard."""
    source = {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}
    content = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["mimo-coder"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source]},
        "annotations": {"list": []},
        "panels": _panels(dashboard),
    }
    return json.dumps(content, indent=1) + "\n"


def _panels(dashboard: Dashboard) -> list[dict[str, Any]]:
    """Rows from top to bottom; the panels of one share its width."""
    placed: list[dict[str, Any]] = []
    top = 0
    for heading, row in dashboard.rows.items():
        placed.append(
            {
                "id": len(placed) + 1,
                "type": "row",
                "title": heading,
                "collapsed": False,
                "gridPos": _at(0, top, _WIDTH, 1),
            }
        )
        top += 1
        width, height = _WIDTH // len(row), max(_HEIGHTS[panel.kind] for panel in row)
        for number, panel in enumerate(row):
            placed.append({"id": len(placed) + 1, **_panel(panel), "gridPos": _at(number * width, top, width, height)})
        top += height
    return placed


def _panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.unit == "percentunit":
        defaults["max"] = 1
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
            for number, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _at(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


if __name__ == "__main__":
    main()
