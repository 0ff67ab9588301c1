"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.output import Format, Output

Problem = Annotated[str | None, typer.Argument(help="What is wrong or wanted; - reads standard input.")]
Repo = Annotated[Path, typer.Option("--repo", metavar="PATH", help="A git checkout.")]
Commit = Annotated[str, typer.Option(help="Commit to start from.")]
Checks = Annotated[
    list[str] | None,
    typer.Option("--check", metavar="CMD", help="Proves the patch by exit code 0; repeatable."),
]
Attempts = Annotated[int, typer.Option(help="Independent tries; the best by the checks counts.")]
Images = Annotated[
    list[Path] | None,
    typer.Option("--image", metavar="FILE", help="PNG, JPEG or WebP, for a model that takes images; repeatable."),
]
MaxSteps = Annotated[int | None, typer.Option(help="Most model calls.")]
MaxTokens = Annotated[int | None, typer.Option(help="Most tokens, read and written.")]
MaxCost = Annotated[float | None, typer.Option(help="Most that model calls may cost, where prices are set.")]
Timeout = Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", help="Most wall time.")]
ModelUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="OpenAI-compatible endpoint up to /v1; also MIMO_MODEL_URL. Default: an embedded model server.",
    ),
]
ModelName = Annotated[str | None, typer.Option("--model", metavar="NAME", help="Served name.")]
Temperature = Annotated[float | None, typer.Option(help="0 to 2.")]
Seed = Annotated[int | None, typer.Option(help="Makes sampling repeatable.")]
Thinking = Annotated[bool | None, typer.Option("--thinking/--no-thinking", help="Reason before acting.")]
Sandbox = Annotated[
    str, typer.Option("--sandbox", metavar="NAME", help="What runs commands: local, docker or kubernetes.")
]
RequireVerified = Annotated[bool, typer.Option("--require-verified", help="Exit with 3 unless every check passes.")]
OutputAs = Annotated[Output, typer.Option("--output", "-o", help="Standard output.")]
FormatAs = Annotated[Format, typer.Option("--output", "-o", help="Standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
NoColor = Annotated[bool, typer.Option("--no-color", help="Also NO_COLOR.")]
Server = Annotated[
    str, typer.Option(envvar="MIMO_SERVER_URL", metavar="URL", help="Address of the service (key: MIMO_API_KEY).")
]
TaskId = Annotated[str, typer.Argument(metavar="TASK", help="Id of the task.")]

LOCAL_SERVICE = "http://127.0.0.1:8700"
