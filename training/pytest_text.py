"""What ``python -m pytest -q --tb=no`` prints for a synthetic repository, without starting it.

A cold pytest takes half a second and an episode needs up to three; this takes a millisecond. ``tests`` compare it with
the real one.
"""

from random import Random

from _pytest._io.saferepr import saferepr

from evals.synthesis.tasks import Failure, RepairTask, first_failure

_COLUMNS = 80
_COMPARED_CHARS = 30
"""Each side of a failed comparison of collections is cut to this."""


def pytest_output(task: RepairTask, files: dict[str, str], random: Random) -> tuple[str, int]:
    """Output and exit code for the work tree ``files``.

    Raises:
        evals.synthesis.tasks.Endless: a function does not end in time.
    """
    dots = ""
    failed: list[str] = []
    for test_path, names in sorted(task.suites.items()):
        for name in names:
            function = task.functions[name]
            source = files[function.path]
            failure = first_failure(source, name, function.visible)
            dots += "." if failure is None else "F"
            if failure is not None:
                failed.append(_summary_line(f"{test_path}::test_{name}", failure))
    lines = [f"{dots}{'[100%]':>{_COLUMNS - 1 - len(dots)}}"]
    if failed:
        lines += [" short test summary info ".center(_COLUMNS, "="), *failed]
    counts = [f"{len(failed)} failed"] if failed else []
    counts += [f"{dots.count('.')} passed"] if "." in dots else []
    lines.append(f"{', '.join(counts)} in {_seconds(random)}s")
    return "\n".join(lines) + "\n", int(bool(failed))


def _seconds(random: Random) -> str:
    """Mostly hundredths, as on a quiet machine, but any time may stand there."""
    most = random.choice((0.1, 0.1, 0.1, 0.5, 9.0))
    return f"{random.uniform(0.01, most):.2f}"


def _summary_line(node: str, failure: Failure) -> str:
    line = f"FAILED {node}"
    if failure.raised:
        message = failure.got
    else:
        got, expected = _shown(failure.value), _shown(_literal(failure.case.expected))
        quoted = "'" in f"{got}{expected}{failure.case.arguments}"
        # pytest drops the error's name by looking at its repr, which a quote in the explanation changes.
        message = f"{'AssertionError: ' if quoted else ''}assert {got} == {expected}"
    room = _COLUMNS - len(line) - len(" - ")
    if len(message) > room:
        if room < len("..."):
            return line
        message = message[: room - len("...")] + "..."
    return f"{line} - {message}"


def _shown(value: object) -> str:
    if isinstance(value, list | dict | str | tuple):
        return saferepr(value, maxsize=_COMPARED_CHARS)
    return saferepr(value)


def _literal(text: str) -> object:
    value: object = eval(text)  # noqa: S307 - a repr of our own
    return value
