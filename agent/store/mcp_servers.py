"""Servers of tools (Model Context Protocol) that the agents of a project may call, in the same database as its tasks.
What they are shown to be let in are secrets of the project, named here only."""

import re
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from agent.store.database import Database
from agent.store.named import Named
from agent.store.tables import mcp_servers

MAX_SERVERS = 32

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]{0,127})\}")
_OF_THE_CONNECTION = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})
_CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"})

_Header = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")]
_Value = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]([\x20-\x7e]{0,1998}[\x21-\x7e])?$")]
_Tool = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,256}$")]


class McpServerSettings(BaseModel):
    """Where a server is, and what of it agents may use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, StringConstraints(pattern=r"^https?://[\x21-\x7e]+$", max_length=2000)] = Field(
        description="Where it speaks HTTP (streamable HTTP); plain http only where the operator allows it."
    )
    headers: dict[_Header, _Value] = Field(
        {},
        max_length=16,
        description="What it is sent with every request. `${NAME}` stands for the project's secret of that name, as in "
        "`Bearer ${TRACKER_TOKEN}`; credentials must be such references.",
    )
    tools: tuple[_Tool, ...] | None = Field(
        None, max_length=256, description="Those of its tools that agents may see and call; null: all."
    )
    timeout_s: float = Field(60.0, gt=0, le=600, description="Longest wait for one answer, s.")

    @field_validator("headers")
    @classmethod
    def _holds_no_secret(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if name.lower() in _OF_THE_CONNECTION:
                raise ValueError(f"{name} is not yours to set")
            if "${" in _REFERENCE.sub("", value):
                raise ValueError(f"{name} has a reference that is none; write ${{NAME}}, with the name of a secret")
            if name.lower() in _CREDENTIALS and not _REFERENCE.search(value):
                raise ValueError(
                    f"{name} is readable here; put its value into a secret of the project, and write ${{NAME}}"
                )
        return headers

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of those that the headers refer to."""
        return tuple(sorted({name for value in self.headers.values() for name in _REFERENCE.findall(value)}))

    def filled(self, secrets: dict[str, str]) -> dict[str, str]:
        """The headers with these secrets in them."""
        return {
            header: _REFERENCE.sub(lambda found: secrets[found[1]], value) for header, value in self.headers.items()
        }


class ProjectMcpServer(McpServerSettings):
    """A server of tools of a project."""

    name: str
    updated_by: str
    updated_at: datetime


class ProjectMcpServers(Named[McpServerSettings, ProjectMcpServer]):
    def __init__(self, database: Database) -> None:
        super().__init__(database, mcp_servers, McpServerSettings, ProjectMcpServer)
