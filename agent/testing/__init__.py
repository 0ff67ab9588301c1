"""Doubles that ship: a scripted model, and an HTTP endpoint that answers by script and can misbehave."""

from agent.testing.scripted_endpoint import Cut, Garbage, ScriptedEndpoint, Stalled, Status
from agent.testing.scripted_model import Script, ScriptedModel, call, in_order, turns

__all__ = [
    "Cut",
    "Garbage",
    "Script",
    "ScriptedEndpoint",
    "ScriptedModel",
    "Stalled",
    "Status",
    "call",
    "in_order",
    "turns",
]
