"""A server of tools as the user describes it, by the Model Context Protocol."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

ServerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class McpServer(BaseModel):
    """A program to start, or an address to speak to; one of both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: tuple[str, ...] = Field((), description="Program and arguments; it speaks on its standard streams.")
    env: dict[str, str] = Field({}, description="Environment of the program, beside PATH, HOME and the like.")
    pass_env: tuple[str, ...] = Field((), description="Names of variables of yours that the program is given too.")
    url: str | None = Field(None, pattern=r"^https?://", description="Address of a server that speaks HTTP.")
    headers: dict[str, str] = Field({}, description="What is sent to the address with every request.")
    token_env: str | None = Field(None, description="Name of the variable with the token to show at the address.")
    oauth: bool = Field(False, description="Sign in at the address with `mimo mcp login`.")
    allow: tuple[str, ...] = Field((), description="Tools that are called without a question.")
    tools: tuple[str, ...] | None = Field(None, description="Those of its tools that there are; null: all.")
    timeout_s: float = Field(60.0, gt=0, le=3600, description="Longest wait for one answer, s.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.command) == bool(self.url):
            raise ValueError("give either a command or a url")
        return self


USERS_ONLY = ("pass_env", "token_env", "oauth", "allow")
"""What a folder's file must not say of a server: it would hand out what is the user's."""
