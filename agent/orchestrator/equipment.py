"""What a project gives its agents besides their profile: skills, and tools of other programs."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from agent.events import OfferedSkill, RunEquipped
from agent.integrations.addresses import Network
from agent.integrations.mcp_server import McpServer
from agent.orchestrator.log import StoreLog
from agent.profiles.base import Profile
from agent.profiles.equipped import equipment, equipped_as
from agent.store.mcp_servers import ProjectMcpServers
from agent.store.skills import ProjectSkills
from agent.tools.mcp import Remembered
from agent.tools.skill import OUTSIDE, Skill

_GONE = "This skill was deleted while the run went on."


class Equipment:
    """Of all projects. Agents of the profile ``assistant`` get it; the tools of the others are fixed."""

    def __init__(
        self,
        skills: ProjectSkills,
        servers: ProjectMcpServers,
        secret: Callable[[str, str], Awaitable[str]],
        networks: tuple[Network, ...] = (),
    ) -> None:
        """
        Args:
            secret: opens one of a project, by its name. Raises ``RepositoryError`` or ``SettingsError``.
            networks: servers may be there, although they are not public.
        """
        self._skills = skills
        self._servers = servers
        self._secret = secret
        self._networks = networks

    @asynccontextmanager
    async def given(self, project_id: str, agent: Profile, log: StoreLog) -> AsyncIterator[Profile]:
        """The agent of a run with what its project had when the run began."""
        given = await self._said(project_id, log) if agent.name == "assistant" else None
        if given is None:
            yield agent
            return
        skills = await self._read(project_id, given)
        async with self._called(project_id, given) as servers:
            yield equipped_as(agent, given, skills, servers)

    async def _said(self, project_id: str, log: StoreLog) -> RunEquipped | None:
        """As the log says; a run that has not begun is told now."""
        if said := equipment(log.events):
            return said
        if any(event.type == "step.started" for event in log.events):
            return None
        skills = tuple(
            OfferedSkill(name=skill.name, description=" ".join(skill.description.split()))
            for skill in await self._skills.all(project_id)
        )
        servers = tuple(server.name for server in await self._servers.all(project_id))
        if not skills and not servers:
            return None
        given = RunEquipped(skills=skills, servers=servers)
        await log.append("run.equipped", given.model_dump(mode="json"))
        return given

    async def _read(self, project_id: str, given: RunEquipped) -> list[Skill]:
        """With their texts of now, which are also a file of the sandbox: a long one is shown in part."""
        texts = {skill.name: skill.text for skill in await self._skills.all(project_id)} if given.skills else {}
        return [
            Skill(
                skill.name,
                skill.description,
                texts.get(skill.name, _GONE),
                f"{OUTSIDE}/{skill.name}",
                {"SKILL.md": texts.get(skill.name, _GONE).encode()},
            )
            for skill in given.skills
        ]

    @asynccontextmanager
    async def _called(self, project_id: str, given: RunEquipped) -> AsyncIterator[Remembered]:
        """Its servers as they are described now; each is called when the model first wants it."""
        if not given.servers:
            yield Remembered((), "there are none")
            return
        try:
            from agent.integrations.mcp import McpServers
            from agent.integrations.project_servers import ProjectWay
        except ImportError as error:
            yield Remembered(given.servers, f"the worker has no MCP ({error}); its operator installs mimo-coder[mcp]")
            return
        settings = {
            server.name: server for server in await self._servers.all(project_id) if server.name in given.servers
        }
        described = {
            name: McpServer(url=server.url, tools=server.tools, timeout_s=server.timeout_s)
            for name, server in settings.items()
        }
        way = ProjectWay(settings, partial(self._secret, project_id), self._networks)
        async with McpServers(described, way) as servers:
            yield Remembered(given.servers, servers)
