"""Doubles that ship: a scripted model, an HTTP endpoint that answers by script and can misbehave, an OpenID provider,
and a git host."""

from agent.testing.git_host import GitHost
from agent.testing.identity_provider import IdentityProvider
from agent.testing.scripted_endpoint import Cut, Garbage, ScriptedEndpoint, Stalled, Status
from agent.testing.scripted_model import Script, ScriptedModel, call, in_order, turns

__all__ = [
    "Cut",
    "Garbage",
    "GitHost",
    "IdentityProvider",
    "Script",
    "ScriptedEndpoint",
    "ScriptedModel",
    "Stalled",
    "Status",
    "call",
    "in_order",
    "turns",
]
