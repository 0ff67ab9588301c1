"""``str_replace`` for the assistant: as the plain one, but it forgives wrong indentation and keeps code readable."""

from agent.tools.base import ToolContext, ToolResult
from agent.tools.str_replace import StrReplace, StrReplaceArguments, refusal, replace
from agent.tools.text_file import edit_text, foresee_edit, numbered

_AROUND = 3
_MOST_SHOWN = 40


class Edit:
    """Replaces a text; a miss that differs only in white space is fitted, where there is one such place."""

    name = StrReplace.name
    description = StrReplace.description
    arguments = StrReplaceArguments

    async def run(self, arguments: StrReplaceArguments, context: ToolContext) -> ToolResult:
        return await edit_text(context, self.name, arguments.path, lambda text: _edited(text, arguments))

    async def foresee(self, arguments: StrReplaceArguments, context: ToolContext) -> ToolResult | None:
        return await foresee_edit(context, arguments.path, lambda text: _edited(text, arguments))


def _edited(text: str, wanted: StrReplaceArguments) -> tuple[ToolResult, str | None]:
    result, changed = replace(text, wanted.old_str, wanted.new_str)
    if changed is None and wanted.old_str not in text and (fitted := fit_indentation(text, wanted)):
        result, changed = replace(text, *fitted)
    if changed is None:
        return result, None
    if why := refusal(wanted.path, text, changed):
        return why, None
    return ToolResult(f"{result.text}\n{_window(text, changed)}"), changed


def fit_indentation(text: str, wanted: StrReplaceArguments) -> tuple[str, str] | None:
    """The lines that are ``old_str`` but for white space, and ``new_str`` indented as they are.

    None where there are no such lines, or several.

    >>> wanted = StrReplaceArguments(path="a.py", old_str="if a:\\n  b()", new_str="if a:\\n  c()")
    >>> fit_indentation("def f():\\n    if a:\\n      b()\\n", wanted)
    ('    if a:\\n      b()', '    if a:\\n      c()')
    """
    lines, old = text.split("\n"), wanted.old_str.strip("\n").split("\n")
    plain, wanted_plain = [" ".join(line.split()) for line in lines], [" ".join(line.split()) for line in old]
    if not any(wanted_plain):
        return None
    size = len(old)
    places = [i for i in range(len(lines) - size + 1) if plain[i : i + size] == wanted_plain]
    found = "\n".join(lines[places[0] : places[0] + size]) if len(places) == 1 else ""
    if not found or text.count(found) != 1:
        return None
    return found, _indented(wanted.new_str.strip("\n"), _indent(wanted.old_str.strip("\n")), _indent(found))


def _indent(text: str) -> str:
    """White space before the first line that is not blank."""
    line = next((line for line in text.split("\n") if line.strip()), "")
    return line[: len(line) - len(line.lstrip())]


def _indented(text: str, old: str, new: str) -> str:
    lines = text.split("\n")
    return "\n".join(new + line.removeprefix(old) if line.strip() and line.startswith(old) else line for line in lines)


def _window(before: str, after: str) -> str:
    """The lines that changed, with some around them."""
    old, new = before.split("\n"), after.split("\n")
    same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    tail = next(
        (i for i, (a, b) in enumerate(zip(reversed(old[same:]), reversed(new[same:]), strict=False)) if a != b),
        min(len(old), len(new)) - same,
    )
    first = max(same - _AROUND, 0)
    shown = new[first : min(len(new) - tail + _AROUND, first + _MOST_SHOWN)]
    return numbered(shown, first + 1)
