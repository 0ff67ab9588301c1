"""SGLang's command line: sorted, from settings alone, and refused where it could not work."""

import json
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from model_server.config import ModelConfig
from model_server.sglang.arguments import (
    PINNED_VERSION,
    ImpossibleLaunch,
    Launch,
    LaunchSettings,
    known_versions,
    launch,
    load_preset,
)
from model_server.sglang.command import API_KEY_VARIABLE, main

CONFIG = ModelConfig.model_validate_json(files("model_server.published").joinpath("MiMo-V2-Flash.json").read_text())
PRESET = load_preset(PINNED_VERSION)


def planned(**settings: Any) -> Launch:
    return launch(LaunchSettings(**{"model_path": "/weights", **settings}), PRESET, CONFIG)


def flags(found: Launch) -> dict[str, str | None]:
    """Values by flag; None for a flag without one."""
    words = [*found.arguments, "--"]
    return {
        word: None if following.startswith("--") else following
        for word, following in pairwise(words)
        if word.startswith("--")
    }


def test_arguments_are_sorted_and_the_same_every_time() -> None:
    names = [word for word in planned().arguments if word.startswith("--")]
    assert names == sorted(set(names))
    assert planned() == planned()


def test_eight_gpus_share_experts_in_two_groups_and_guess_three_tokens_ahead() -> None:
    found = flags(planned(gpu_memory_gb=141))
    assert (found["--tp-size"], found["--attn-dp-size"], found["--moe-a2a-backend"]) == ("8", "2", "deepep")
    assert (found["--speculative-num-steps"], found["--speculative-num-draft-tokens"]) == ("3", "4")
    assert (found["--host"], found["--context-length"]) == ("127.0.0.1", "262144")
    assert found["--enable-strict-thinking"] is None


def test_without_guessing_nothing_is_said_of_it() -> None:
    assert not [flag for flag in flags(planned(draft_steps=0)) if flag.startswith("--speculative")]


def test_the_exchange_of_experts_brings_its_variable() -> None:
    name = "SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK"
    assert planned().environment[name]
    assert name not in planned(expert_exchange="none").environment


def test_routes_are_kept_only_where_asked_for() -> None:
    assert "--enable-return-routed-experts" not in flags(planned())
    assert "--enable-return-routed-experts" in flags(planned(routed_experts=True))


def test_further_flags_go_before_defaults_and_null_takes_one_away() -> None:
    found = flags(
        planned(flags={"page-size": 64, "tool-call-parser": None, "attention-backend": "fa3", "sleep-on-idle": True})
    )
    assert (found["--page-size"], found["--attention-backend"], found["--sleep-on-idle"]) == ("64", "fa3", None)
    assert "--tool-call-parser" not in found


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"gpus": 6}, "cannot be 2 attention_groups"),
        ({"attention_groups": 3}, "use 1, 2, 4, 8"),
        ({"gpus": 3, "attention_groups": 3}, "256 experts cannot be dealt out evenly to 3 GPUs"),
        ({"gpu_memory_gb": 40}, "use more GPUs"),
        ({"gpu_memory_gb": 60, "window_ratio": 0.8}, "could never run: lower context_length"),
        ({"context_length": 262_145}, "made for 262144"),
        ({"draft_steps": 4}, "3 prediction layers"),
        ({"max_running": 1}, "at least their number"),
        ({"host": "0.0.0.0"}, "use 127.0.0.1, or set api_key"),
        ({"flags": {"enable-mtp": True}}, "draft_steps above 0"),
        ({"flags": {"dp-size": 2}}, "set attention_groups"),
        ({"flags": {"atention-backend": "fa3"}}, "has no such flag"),
        ({"flags": {"tp-size": 4}}, "use gpus"),
        ({"flags": {"enable-strict-thinking": None}}, "our server relies on it"),
        ({"flags": {"reasoning-parser": "qwen3"}}, "must be mimo"),
        ({"flags": {"attention-backend": "flashinfer"}}, "use fa3, fa4 or triton"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(settings: dict[str, Any], advice: str) -> None:
    with pytest.raises(ImpossibleLaunch, match=advice):
        planned(**settings)


def test_an_unknown_version_names_those_that_are_known() -> None:
    with pytest.raises(ImpossibleLaunch, match=", ".join(known_versions())):
        load_preset("0.5.9")


@pytest.mark.parametrize("settings", [{"gpu": 8}, {"memory_share": 1.0}, {"flags": {"--x": 1}}, {"port": 0}])
def test_settings_are_checked_one_by_one(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        planned(**settings)


def test_the_command_prints_a_line_for_a_shell_and_no_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"model_path": "/a b", "api_key": "s3cret", "flags": {"page-size": 64}}))
    assert main(["--settings", str(file), "--gpus", "4", "--flag", "attention-backend=fa3"]) == 0
    line = capsys.readouterr().out
    assert "python3 -m sglang.launch_server" in line
    assert "--model-path '/a b'" in line
    assert "--tp-size 4" in line
    assert "--page-size 64" in line
    assert "--attention-backend fa3" in line
    assert f'--api-key "${API_KEY_VARIABLE}"' in line
    assert "s3cret" not in line


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--gpus", "8"], "model_path: Field required"),
        (["--model-path", "/w", "--gpus", "many"], "gpus: "),
        (["--model-path", "/w", "--gpus", "6"], "attention_groups"),
        (["--settings", "/nowhere.json"], "/nowhere.json"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
