"""``python -m deploy.cluster``: build the programs, start a cluster, look at it, end it."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from platformdirs import user_state_path

from deploy.cluster import cluster, programs
from deploy.cluster.cluster import Cluster
from deploy.cluster.errors import ClusterError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A whole Kubernetes on this machine.")
Name = Annotated[str, typer.Option(help="Of the cluster; several may run at once.")]


@app.command()
def packages() -> None:
    """Print the Debian packages that it needs and this machine lacks."""
    typer.echo(" ".join(programs.packages()))


@app.command()
def build() -> None:
    """Compile the programs; minutes the first time, nothing when they are there."""
    programs.build()


@app.command()
def up(
    name: Name = "mimo", fake_nodes: Annotated[int, typer.Option(help="Nodes where pods only seem to run.")] = 0
) -> None:
    """Start a cluster, if it does not run yet, and print the path of its kubeconfig."""
    running = cluster.find(_folder(name)) or cluster.start(_folder(name), name)
    if fake_nodes:
        running.add_fake_nodes(fake_nodes)
    typer.echo(running.kubeconfig)


@app.command()
def env(name: Name = "mimo") -> None:
    """Print what a shell needs for it: eval "$(python -m deploy.cluster env)"."""
    found = programs.build()
    typer.echo(f"export KUBECONFIG={_running(name).kubeconfig}")
    typer.echo(f"export PATH={found['helm'].parent}:{found['kubectl'].parent}:$PATH")


@app.command()
def status(name: Name = "mimo") -> None:
    """Show its nodes and pods."""
    typer.echo(_running(name).kubectl("get", "nodes,pods", "--all-namespaces"), nl=False)


@app.command()
def load(archives: list[Path], name: Name = "mimo") -> None:
    """Give it images: files as `docker save` writes them, or OCI layouts in tar archives."""
    for archive in archives:
        _running(name).load(archive)


@app.command()
def down(name: Name = "mimo") -> None:
    """End it, and remove all it kept."""
    _running(name).stop()


def _running(name: str) -> Cluster:
    found = cluster.find(_folder(name))
    if found is None:
        raise ClusterError(f"no cluster {name!r} runs; start it: python -m deploy.cluster up --name {name}")
    return found


def _folder(name: str) -> Path:
    return user_state_path("mimo-coder") / "clusters" / name


if __name__ == "__main__":
    logging.basicConfig(format="cluster: %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        app()
    except ClusterError as error:
        sys.exit(f"cluster: {error}")
