"""Doubles that ship: a scripted model, an HTTP endpoint that answers by script and can misbehave, an OpenID provider, a
git host, a proxy that cuts connections, and a backend that tells what its sandboxes are asked."""

from agent.testing.cutting_proxy import CuttingProxy, Watch
from agent.testing.git_host import GitHost
from agent.testing.identity_provider import IdentityProvider
from agent.testing.scripted_endpoint import Cut, Garbage, ScriptedEndpoint, Stalled, Status
from agent.testing.scripted_model import Script, ScriptedModel, call, in_order, turns
from agent.testing.watched_backend import WatchedBackend

__all__ = [
    "Cut",
    "CuttingProxy",
    "Garbage",
    "GitHost",
    "IdentityProvider",
    "Script",
    "ScriptedEndpoint",
    "ScriptedModel",
    "Stalled",
    "Status",
    "Watch",
    "WatchedBackend",
    "call",
    "in_order",
    "turns",
]
