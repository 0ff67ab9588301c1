"""SGLang's command line, as a pure function of settings and of the preset of one version."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from model_server.config import ModelConfig
from model_server.loopback import is_loopback
from model_server.plan import NUM_MTP_LAYERS, Layout, Machine, plan, splits

PINNED_VERSION = "0.5.23"

Flag = bool | int | float | str
FlagName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$")]


class ImpossibleLaunch(ValueError):
    """SGLang would not start, or not serve this model; the message says what to change."""


class LaunchSettings(BaseModel):
    """How SGLang is to run on one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_path: str = Field(min_length=1)
    """Folder of the weights, or their name on the hub if they are in its cache."""
    served_name: str = Field("mimo-v2-flash", min_length=1)
    version: str = PINNED_VERSION
    """Of SGLang; there is a preset for each that is known."""
    host: str = "127.0.0.1"
    """Our server is in front, on the same machine, so nobody else needs to reach it. Other addresses need a key."""
    port: int = Field(30_000, ge=1, le=65_535)
    api_key: SecretStr | None = None
    """SGLang takes it from its command line only, which other users of the machine can read."""
    gpus: int = Field(8, ge=1, le=1024)
    """Everything but attention is split over all of them."""
    attention_groups: int = Field(2, ge=1)
    """Groups of GPUs, each with the attention and the cache of its own sequences. Four key-value heads are repeated
    over more than four GPUs, so two groups of four hold twice as many tokens as one of eight."""
    gpu_memory_gb: float | None = Field(None, gt=0)
    """Of one GPU, GB; with it, what cannot fit is refused here and not after minutes of loading."""
    memory_share: float = Field(0.75, gt=0, lt=1)
    """Of a GPU's memory, for weights, keys and values; the rest is for activations and CUDA graphs."""
    window_ratio: float = Field(0.1, gt=0, le=1)
    """Slots of the window layers for each token of context. SGLang's 0.8 gives most of the memory to layers that see
    128 tokens."""
    context_length: int = Field(262_144, gt=0)
    """Longest prompt plus completion, tokens."""
    max_running: int = Field(128, gt=0)
    """Sequences at once; without a number SGLang allows 48 where it guesses ahead."""
    max_waiting: int = Field(256, gt=0)
    """Sequences that may wait; one more is refused at once."""
    prefill_tokens: int = Field(16_384, gt=0)
    """Prompt tokens in a step of all groups together."""
    draft_steps: int = Field(NUM_MTP_LAYERS, ge=0)
    """Tokens guessed ahead by the prediction layers; 0 switches them off."""
    expert_exchange: Literal["none", "deepep"] = "deepep"
    """``deepep`` pays at high load on Hopper and needs a package of its own; ``none`` works everywhere."""
    routed_experts: bool = False
    """Answers can name the experts of their tokens; costs memory of the host for every token in the cache."""
    flags: dict[FlagName, Flag | None] = {}
    """Further flags, without dashes; null takes a default away."""


class Preset(BaseModel):
    """What a version of SGLang calls things; see the files in ``presets``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    known: frozenset[FlagName]
    """All flags that its parser has, from the file ``.flags`` beside the preset."""
    needed: dict[FlagName, Flag]
    defaults: dict[FlagName, Flag]
    names: dict[str, FlagName]
    speculation: dict[FlagName, Flag]
    refused: dict[FlagName, str]
    impossible: dict[FlagName, dict[str, str]]
    environment: dict[str, str]
    environment_deepep: dict[str, str]


@dataclass(frozen=True, slots=True)
class Launch:
    """What a process of SGLang is started with."""

    arguments: tuple[str, ...]
    """Sorted by flag."""
    environment: Mapping[str, str]
    """Variables beside those it inherits."""


def known_versions() -> list[str]:
    """Versions with a preset."""
    presets = files("model_server.sglang").joinpath("presets").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in presets if file.name.endswith(".toml"))


def load_preset(version: str) -> Preset:
    """Raises ImpossibleLaunch where there is none."""
    if version not in known_versions():
        raise ImpossibleLaunch(f"SGLang {version} is not known here: use {', '.join(known_versions())}")
    folder = files("model_server.sglang").joinpath("presets")
    known = folder.joinpath(f"{version}.flags").read_text("utf-8").split()
    return Preset.model_validate(
        {"known": known, **tomllib.loads(folder.joinpath(f"{version}.toml").read_text("utf-8"))}
    )


def launch(settings: LaunchSettings, preset: Preset, config: ModelConfig) -> Launch:
    """The arguments of SGLang for a model.

    Raises:
        ImpossibleLaunch: settings contradict each other, the model, or the machine.
    """
    _check_flags(settings, preset)
    _check_access(settings)
    _check_split(settings, config)
    _check_limits(settings, config)
    environment = preset.environment | (preset.environment_deepep if settings.expert_exchange == "deepep" else {})
    return Launch(_written(_flags(settings, preset)), environment)


def _flags(settings: LaunchSettings, preset: Preset) -> dict[str, Flag]:
    chosen = {name: value for name, value in _values(settings).items() if value is not None}
    flags: dict[str, Flag | None] = {preset.names[name]: value for name, value in chosen.items()}
    speculation = preset.speculation if settings.draft_steps else {}
    flags = {**preset.defaults, **speculation, **settings.flags, **flags, **preset.needed}
    return {flag: value for flag, value in flags.items() if value is not None and value is not False}


def _values(settings: LaunchSettings) -> dict[str, Flag | None]:
    """Of everything in a preset's ``names``; None leaves it to SGLang."""
    guesses = settings.draft_steps > 0
    return {
        "model_path": settings.model_path,
        "served_name": settings.served_name,
        "host": settings.host,
        "port": settings.port,
        "api_key": None if settings.api_key is None else settings.api_key.get_secret_value(),
        "gpus": settings.gpus,
        "attention_groups": settings.attention_groups,
        "memory_share": settings.memory_share,
        "window_ratio": settings.window_ratio,
        "context_length": settings.context_length,
        "max_running": settings.max_running,
        "max_waiting": settings.max_waiting,
        "prefill_tokens": settings.prefill_tokens,
        "expert_exchange": settings.expert_exchange,
        "routed_experts": settings.routed_experts,
        "draft_steps": settings.draft_steps if guesses else None,
        # A step verifies the guesses and the token before them.
        "verified_tokens": settings.draft_steps + 1 if guesses else None,
    }


def _written(flags: Mapping[str, Flag]) -> tuple[str, ...]:
    return tuple(
        part for flag in sorted(flags) for part in (f"--{flag}", *([] if flags[flag] is True else [str(flags[flag])]))
    )


def _check_flags(settings: LaunchSettings, preset: Preset) -> None:
    settings_of = {flag: name for name, flag in preset.names.items()}
    for flag, value in settings.flags.items():
        if flag in preset.refused:
            raise ImpossibleLaunch(f"--{flag}: {preset.refused[flag]}")
        if flag not in preset.known:
            raise ImpossibleLaunch(f"--{flag}: SGLang {settings.version} has no such flag")
        if flag in settings_of:
            raise ImpossibleLaunch(f"--{flag} has a setting: use {settings_of[flag]}")
        if flag in preset.needed and value != preset.needed[flag]:
            raise ImpossibleLaunch(f"--{flag} must be {preset.needed[flag]}: our server relies on it")
        reason = preset.impossible.get(flag, {}).get(str(value))
        if reason is not None:
            raise ImpossibleLaunch(f"--{flag} {value}: {reason}")


def _check_access(settings: LaunchSettings) -> None:
    if settings.api_key is None and not is_loopback(settings.host):
        raise ImpossibleLaunch(f"{settings.host} can be reached by others: use 127.0.0.1, or set api_key")


def _check_split(settings: LaunchSettings, config: ModelConfig) -> None:
    gpus, groups = settings.gpus, settings.attention_groups
    possible = [number for number in range(1, gpus + 1) if gpus % number == 0 and splits(config, gpus // number)]
    if groups not in possible:
        numbers = ", ".join(map(str, possible)) or "another number of GPUs"
        raise ImpossibleLaunch(f"{gpus} GPUs cannot be {groups} attention_groups for this model: use {numbers}")
    if config.n_routed_experts % gpus:
        raise ImpossibleLaunch(f"{config.n_routed_experts} experts cannot be dealt out evenly to {gpus} GPUs")
    if settings.gpu_memory_gb is not None:
        machine = Machine(gpus, settings.gpu_memory_gb, settings.memory_share)
        layouts = plan(config, machine, settings.window_ratio)
        _check_memory(settings, next(layout for layout in layouts if layout.dp == groups), settings.gpu_memory_gb)


def _check_memory(settings: LaunchSettings, layout: Layout, memory_gb: float) -> None:
    used_gb = memory_gb * settings.memory_share
    if layout.room_gb <= 0:
        raise ImpossibleLaunch(
            f"the weights need {layout.weights_gb:.1f} GB of each GPU, but memory_share leaves them {used_gb:.1f} GB: "
            "use more GPUs, or GPUs with more memory"
        )
    in_group = layout.tokens // layout.dp
    if in_group < settings.context_length:
        raise ImpossibleLaunch(
            f"each attention group has room for {in_group} tokens, so a request of {settings.context_length} could "
            "never run: lower context_length or window_ratio, or raise memory_share"
        )


def _check_limits(settings: LaunchSettings, config: ModelConfig) -> None:
    if settings.context_length > config.max_position_embeddings:
        raise ImpossibleLaunch(
            f"the model was made for {config.max_position_embeddings} tokens, not for {settings.context_length}: "
            "lower context_length"
        )
    if settings.draft_steps > NUM_MTP_LAYERS:
        raise ImpossibleLaunch(
            f"the model has {NUM_MTP_LAYERS} prediction layers: draft_steps cannot be {settings.draft_steps}"
        )
    if settings.max_running < settings.attention_groups:
        raise ImpossibleLaunch("max_running is for all attention_groups together: it must be at least their number")
