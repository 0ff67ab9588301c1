"""``mcp_list``, ``mcp_call`` and ``mcp_read``: the tools of other programs, and what these have to read.

The model reads of a tool when it looks for one, so that many servers take no more of the context than one. The schemas
stay the same while a conversation lasts, and with them the beginning of every prompt.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.tools.base import ToolContext, ToolResult, unknown

_Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class ToolServers(Protocol):
    """Other programs that offer tools. What fails there is a result, and no exception."""

    @property
    def names(self) -> Sequence[str]:
        """Always in the same order."""

    @property
    def states(self) -> Mapping[str, str]:
        """How it is with each, in a few words for people."""

    async def describe(self, server: str, tool: str) -> ToolResult:
        """What there is. An empty ``server`` means all; a ``tool`` is described in full, with its arguments."""

    async def call(self, server: str, tool: str, arguments: dict[str, Any]) -> ToolResult: ...

    async def read(self, server: str, uri: str) -> ToolResult:
        """A resource."""

    async def resources(self, server: str) -> Sequence[tuple[str, str]]:
        """What a server has to read, for people: addresses, or templates of them, and what each is. Nothing where it
        has none, or does not say."""


class Remembered:
    """Servers under the names that a run began with, whatever became of them since."""

    def __init__(self, names: Sequence[str], present: ToolServers | str) -> None:
        """
        Args:
            present: those that can be called; or why none of them can.
        """
        self.names = names
        self._present = present

    @property
    def states(self) -> Mapping[str, str]:
        return {} if isinstance(self._present, str) else self._present.states

    async def describe(self, server: str, tool: str) -> ToolResult:
        if isinstance(self._present, str):
            return ToolResult(f"[error] {self._present}", error=True)
        return await self._present.describe(server, tool)

    async def call(self, server: str, tool: str, arguments: dict[str, Any]) -> ToolResult:
        if isinstance(self._present, str):
            return ToolResult(f"[error] {self._present}", error=True)
        return await self._present.call(server, tool, arguments)

    async def read(self, server: str, uri: str) -> ToolResult:
        if isinstance(self._present, str):
            return ToolResult(f"[error] {self._present}", error=True)
        return await self._present.read(server, uri)

    async def resources(self, server: str) -> Sequence[tuple[str, str]]:
        return () if isinstance(self._present, str) else await self._present.resources(server)


class McpListArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    server: str = Field("", description="One of the servers; empty: all.")
    tool: str = Field("", description="Describe this tool and its arguments in full.")


class McpCallArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    server: _Name = Field(description="One of the servers.")
    tool: _Name = Field(description="Name of the tool, as mcp_list shows it.")
    arguments: dict[str, Any] = Field(default_factory=dict, description="As the tool's schema says.")


class McpReadArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    server: _Name = Field(description="One of the servers.")
    uri: Annotated[str, StringConstraints(min_length=1, max_length=2048)] = Field(
        description="Address of the resource, as mcp_list shows it."
    )


class McpList:
    """Looks for tools."""

    name = "mcp_list"
    arguments = McpListArguments

    def __init__(self, servers: ToolServers) -> None:
        self._servers = servers
        self.description = (
            f"List the tools of other programs, and their resources. Servers: {', '.join(servers.names)}."
        )

    async def run(self, arguments: McpListArguments, context: ToolContext) -> ToolResult:
        return await self._servers.describe(arguments.server, arguments.tool)


class McpCall:
    """Calls one. It happens outside the sandbox."""

    name = "mcp_call"
    description = "Call a tool of another program; mcp_list says which there are."
    arguments = McpCallArguments

    def __init__(self, servers: ToolServers) -> None:
        self._servers = servers

    async def run(self, arguments: McpCallArguments, context: ToolContext) -> ToolResult:
        if context.again:
            return unknown(self.name)
        return await self._servers.call(arguments.server, arguments.tool, arguments.arguments)


class McpRead:
    """Reads a resource. It happens outside the sandbox, and changes nothing."""

    name = "mcp_read"
    description = "Read a resource of another program, such as @server:uri in the user's words; mcp_list shows them."
    arguments = McpReadArguments

    def __init__(self, servers: ToolServers) -> None:
        self._servers = servers

    async def run(self, arguments: McpReadArguments, context: ToolContext) -> ToolResult:
        return await self._servers.read(arguments.server, arguments.uri)
