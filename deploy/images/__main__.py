"""``python -m deploy.images``: write the images of the service as archives, and print where they are."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from deploy.images.errors import ImageError
from deploy.images.services import NAMES, build_services
from sandbox.errors import SandboxUnavailable

app = typer.Typer(add_completion=False)


@app.command()
def build(
    names: Annotated[list[str] | None, typer.Argument(help=f"Which of them: {', '.join(NAMES)}; default: all.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the archives go.")] = Path("build/images"),
) -> None:
    """Make images without Docker and a registry; `docker load` and `python -m deploy.cluster load` take them."""
    if unknown := set(names or ()) - set(NAMES):
        raise typer.BadParameter(f"no such image: {', '.join(sorted(unknown))}")
    for name, archive in build_services(folder, names or NAMES).items():
        typer.echo(f"{name} {archive}")


if __name__ == "__main__":
    logging.basicConfig(format="images: %(message)s", level=logging.INFO)
    try:
        app()
    except (ImageError, SandboxUnavailable) as error:
        sys.exit(f"images: {error}")
