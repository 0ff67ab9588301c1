"""Works with a user who is there: more tools, questions, and a look at the patch before the end."""

from agent.profiles.base import Profile, load_prompt
from agent.tools.ask_user import AskUser
from agent.tools.edit import Edit
from agent.tools.explore import Explore
from agent.tools.find import Glob, Grep
from agent.tools.finish import Finish
from agent.tools.job import BashWithJobs, Job
from agent.tools.read import Read
from agent.tools.todo import Todo
from agent.tools.write import Write


def assistant() -> Profile:
    """Reading, editing, searching, jobs, a list of what is to do, questions to the user and to a helper."""
    return Profile(
        "assistant",
        load_prompt("assistant"),
        (
            BashWithJobs(),
            Job(),
            Read(),
            Grep(),
            Glob(),
            Edit(),
            Write(),
            Todo(),
            AskUser(),
            Explore(),
            Finish(),
        ),
        review=True,
        helper=_explorer(),
    )


def _explorer() -> Profile:
    return Profile("explorer", load_prompt("explorer"), (Read(), Grep(), Glob(), Finish()))
