"""``mimo skill``: what the agents of a service's project can read up on."""

from pathlib import Path

from pydantic import ValidationError
from rich.table import Table

from agent.api.skills import NewSkill, SkillList
from agent.cli.arguments import invalid
from agent.cli.chat.skills import skill_in
from agent.cli.client import Client
from agent.cli.output import Format
from agent.cli.terminal import Terminal, one_line
from agent.store.skills import ProjectSkill, SkillSettings


def read_skill(file: Path) -> NewSkill:
    """
    Args:
        file: a SKILL.md, or the folder that holds it.

    Raises:
        Failure: it is no skill, or one that a service does not take.
    """
    skill = skill_in(file / "SKILL.md" if file.is_dir() else file)
    try:
        return NewSkill(name=skill.name, description=skill.description, text=skill.text)
    except ValidationError as error:
        raise invalid(error) from error


async def add(client: Client, terminal: Terminal, new: NewSkill, *, replace: bool) -> None:
    """
    Args:
        replace: it takes the place of the one of its name.
    """
    if replace:
        settings = SkillSettings(description=new.description, text=new.text)
        await client.ask(ProjectSkill, "PUT", f"/v1/skills/{new.name}", settings)
    else:
        await client.ask(ProjectSkill, "POST", "/v1/skills", new)
    terminal.note(f"{'Replaced' if replace else 'Added'} {new.name}.")


async def list_skills(client: Client, terminal: Terminal, output: Format) -> None:
    found = await client.ask(SkillList, "GET", "/v1/skills")
    if output is Format.JSON:
        terminal.result(found.model_dump_json(indent=2))
        return
    if not found.skills:
        terminal.note("No skills; add one with mimo skill add FILE.")
        return
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "when it is of use"):
        rows.add_column(heading, no_wrap=True)
    for skill in found.skills:
        rows.add_row(skill.name, one_line(skill.description, 100))
    terminal.out.print(rows)


async def show(client: Client, name: str, terminal: Terminal, output: Format) -> None:
    """As the file that :func:`read_skill` reads, or as JSON."""
    skill = await client.ask(ProjectSkill, "GET", f"/v1/skills/{name}")
    if output is Format.JSON:
        terminal.result(skill.model_dump_json(indent=2))
        return
    import yaml  # Slow to import, and needed only here.

    head = yaml.safe_dump({"name": skill.name, "description": skill.description}, allow_unicode=True, sort_keys=False)
    terminal.result(f"---\n{head}---\n\n{skill.text}")


async def remove(client: Client, name: str, terminal: Terminal) -> None:
    await client.ask(None, "DELETE", f"/v1/skills/{name}")
    terminal.note(f"Removed {name}.")
