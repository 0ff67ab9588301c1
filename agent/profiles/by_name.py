"""The one place that chooses a profile."""

from typing import Literal

from agent.profiles.assistant import assistant
from agent.profiles.base import Profile
from agent.profiles.mini import mini
from agent.profiles.native import native


def profile(name: Literal["native", "assistant", "mini"]) -> Profile:
    return {"native": native, "assistant": assistant, "mini": mini}[name]()
