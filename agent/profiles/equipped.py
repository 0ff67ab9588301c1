"""A profile with what its user, or its project, has besides: skills, and servers of tools."""

from collections.abc import Sequence
from dataclasses import replace

from agent.events import RunEquipped
from agent.profiles.base import Profile
from agent.tools.base import Tool
from agent.tools.mcp import McpCall, McpList, McpRead, Remembered, ToolServers
from agent.tools.skill import Skill, UseSkill, offer
from agent.types import Event


def equipped(agent: Profile, skills: Sequence[Skill], servers: ToolServers | None) -> Profile:
    """With the tools for them, where there are any; the prompt says nothing of them yet."""
    added: list[Tool] = [UseSkill(skills)] if skills else []
    if servers is not None:
        added += [McpList(servers), McpCall(servers), McpRead(servers)]
    return replace(agent, tools=(*agent.tools, *added))


def equipped_as(agent: Profile, given: RunEquipped, skills: Sequence[Skill], servers: ToolServers) -> Profile:
    """As a run began with it.

    Args:
        skills: those of ``given``, in its order.
        servers: called by its names.
    """
    full = equipped(agent, skills, servers if given.servers else None)
    return full.told(offer(skills)) if skills else full


def as_logged(agent: Profile, events: Sequence[Event]) -> Profile:
    """As the log of a run says that it was shown to the model. Its tools are not to be called."""
    given = equipment(events)
    if given is None:
        return agent
    skills = [Skill(skill.name, skill.description, text="", place="") for skill in given.skills]
    return equipped_as(agent, given, skills, Remembered(given.servers, "nothing is called while a log is read"))


def equipment(events: Sequence[Event]) -> RunEquipped | None:
    """What the project gave; None where the log does not say."""
    said = next((event for event in events if event.type == "run.equipped"), None)
    return None if said is None else RunEquipped.model_validate(said.body)
