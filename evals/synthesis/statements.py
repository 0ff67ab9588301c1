"""Problem statements: what a user writes about a bug."""

from evals.synthesis.tasks import Bug

_STATEMENTS = (
    "`{call}` in `{path}` returns {got}, but it should return {expected}.",
    "`{name}` in `{path}` is wrong: `{call}` gives {got} and not {expected}. Please fix it.",
    "Fix `{name}`: `{call}` should be {expected}, but it is {got}.",
    "The test of `{name}` fails: expected {expected} from `{call}`, got {got}.",
)
_RAISED = (
    "`{call}` in `{path}` raises {got}; it should return {expected}.",
    "`{name}` in `{path}` is wrong: `{call}` raises {got}. It should give {expected}. Please fix it.",
    "Fix `{name}`: `{call}` should be {expected}, but it raises {got}.",
    "The test of `{name}` fails: expected {expected} from `{call}`, got {got}.",
)

NUM_STYLES = len(_STATEMENTS)


def statement(bug: Bug, style: int) -> str:
    """What the user writes about one bug. Styles 0 and 1 name the file, 2 and 3 do not."""
    template = (_RAISED if bug.failure.raised else _STATEMENTS)[style]
    call = f"{bug.function}({bug.failure.case.arguments})"
    return template.format(
        call=call, name=bug.function, path=bug.path, got=bug.failure.got, expected=bug.failure.case.expected
    )


def names_file(style: int) -> bool:
    """Whether a statement of this style says which file is wrong."""
    return style < 2
