"""What does it cost to render the chart, and how much of `helm template` is Helm's own start?

    python -m benchmarks.chart_render

A Go program of the Helm module that is pinned for the test cluster (``deploy/cluster/sources/render``) loads the chart
and the values of a profile, checks them against the schema, and renders, many times in one process. Beside it stand
whole commands of Helm: one that does nothing (`helm version`), and `helm template`. Processor time, medians; what the
clock says depends on what else runs.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess

from rich.console import Console
from rich.table import Table

from deploy.chart.__main__ import CHART
from deploy.cluster import programs

SITE = ("global.imageRegistry=registry.example.internal", "networkPolicy.apiServer.cidrs={10.0.0.1/32}")
PROFILES = {
    "dev": (),
    "h200": (*SITE, "database.cidrs={10.0.0.9/32}"),
}
"""Profile -> what its file leaves open."""


def rendered(profile: str, times: int) -> dict[str, float]:
    """Milliseconds of each part, in one process."""
    options = [f"-values={CHART}/values-{profile}.yaml", *(f"-set={each}" for each in PROFILES[profile])]
    command = [str(programs.compiled("render") / "render"), f"-chart={CHART}", f"-n={times}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    parts: dict[str, float] = json.loads(done.stdout)
    return parts


def command_ms(*arguments: str, times: int) -> float:
    """Median processor time of a command of Helm, ms."""
    command = [str(programs.build()["helm"]), *arguments]
    spent = []
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env={**os.environ, "KUBECONFIG": os.devnull}, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return 1000 * statistics.median(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description="What rendering the chart costs, apart from Helm's start.")
    parser.add_argument("--times", type=int, default=200, help="Renderings in one process.")
    parser.add_argument("--commands", type=int, default=20, help="Whole commands of Helm.")
    arguments = parser.parse_args()
    start_ms = command_ms("version", "--short", times=arguments.commands)
    table = Table(title="processor time, ms")
    for heading in ("profile", "objects", "load", "schema", "render", "together", "helm template", "helm's start"):
        table.add_column(heading, justify="left" if heading == "profile" else "right")
    for profile, given in PROFILES.items():
        parts = rendered(profile, arguments.times)
        options = (f"--values={CHART}/values-{profile}.yaml", *(f"--set={each}" for each in given))
        whole_ms = command_ms("template", "mimo", str(CHART), *options, times=arguments.commands)
        milliseconds = [parts["load_ms"], parts["check_ms"], parts["render_ms"]]
        numbers = [*milliseconds, sum(milliseconds), whole_ms, start_ms]
        table.add_row(profile, f"{parts['objects']:.0f}", *(f"{each:.1f}" for each in numbers))
    Console().print(table)


if __name__ == "__main__":
    main()
