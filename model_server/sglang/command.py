"""``python -m model_server sglang-args``: the command line that starts SGLang."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from model_server.config import load_config
from model_server.sglang.arguments import Flag, ImpossibleLaunch, Launch, LaunchSettings, launch, load_preset
from model_server.sglang.process import COMMAND

API_KEY_VARIABLE = "MIMO_SGLANG_API_KEY"
"""SGLang's own key, where it has one."""

_HIDDEN_KEY = f"${API_KEY_VARIABLE}"


def main(arguments: Sequence[str]) -> int:
    """Print the variables and the command line; exit code 2 is a mistake the caller can correct."""
    options = vars(_parser().parse_args(arguments))
    file, config = options.pop("settings"), options.pop("config")
    flags = dict(options.pop("flag") or [])
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = read_settings(file, given, flags)
        found = plan_launch(settings, config)
    except (OSError, ValidationError, ImpossibleLaunch) as error:
        print(f"model_server sglang-args: {complaint(error)}", file=sys.stderr)  # noqa: T201
        return 2
    sys.stdout.write(_written(settings, found) + "\n")
    return 0


def read_settings(
    file: Path | None, given: dict[str, object] | None = None, flags: dict[str, Flag | None] | None = None
) -> LaunchSettings:
    """Settings of a JSON file, with those that are ``given`` over them.

    Raises:
        OSError: the file cannot be read.
        ValidationError: a setting is unknown or out of range.
    """
    known = {} if file is None else TypeAdapter(dict[str, object]).validate_json(file.read_bytes())
    known |= given or {}
    if flags:
        earlier = known.get("flags", {})
        known["flags"] = {**(earlier if isinstance(earlier, dict) else {}), **flags}
    return LaunchSettings.model_validate(known)


def plan_launch(settings: LaunchSettings, config: Path | None = None) -> Launch:
    """The launch of the published model, or of the one whose ``config.json`` is given.

    Raises:
        OSError, ValidationError: the configuration cannot be read.
        ImpossibleLaunch: see :func:`model_server.sglang.arguments.launch`.
    """
    return launch(settings, load_preset(settings.version), load_config(config))


def complaint(error: Exception) -> str:
    """One line about a mistake in settings."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors())
    return " ".join(str(error).split())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model_server sglang-args",
        description="The command line that starts SGLang. Options are the settings of model_server.sglang.",
    )
    parser.add_argument("--settings", type=Path, help="JSON file with settings; options go before it")
    parser.add_argument("--config", type=Path, help="config.json or its folder; default: MiMo-V2-Flash")
    parser.add_argument("--flag", type=_flag, action="append", metavar="NAME[=VALUE]", help="a further flag of SGLang")
    for name, field in LaunchSettings.model_fields.items():
        if name in ("flags", "api_key"):  # a key on a command line is seen by everyone
            continue
        default = "" if field.is_required() or field.default is None else f"default: {field.default}"
        parser.add_argument(f"--{name.replace('_', '-')}", help=default)
    return parser


def _flag(text: str) -> tuple[str, Flag | None]:
    name, equals, value = text.removeprefix("--").partition("=")
    if not equals:
        return name, True
    return name, None if value == "null" else value


def _written(settings: LaunchSettings, found: Launch) -> str:
    """Lines for a shell; a key is only named."""
    key = None if settings.api_key is None else settings.api_key.get_secret_value()
    words = [f'"{_HIDDEN_KEY}"' if word == key else shlex.quote(word) for word in (*COMMAND, *found.arguments)]
    variables = [f"{name}={shlex.quote(value)}" for name, value in sorted(found.environment.items())]
    starts = [index for index, word in enumerate(words) if word.startswith("--")]
    flags = [" ".join(words[start:end]) for start, end in zip(starts, [*starts[1:], len(words)], strict=True)]
    return " \\\n  ".join([" ".join([*variables, *words[: starts[0]]]), *flags])
