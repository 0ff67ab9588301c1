"""How texts, numbers and times are written on the page.

Markup is escaped by the templates. This is for what escaping leaves: terminal sequences, control characters, and
letters that turn the reading direction so that a name shows as another.
"""

import re
from datetime import UTC, datetime

_TERMINAL_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


def visible(text: str) -> str:
    """Colours of a terminal are dropped; any other character that would not be seen is named.

    >>> visible("\\x1b[31mred\\x1b[0m \\x00 a\\u202eb")
    'red ⟨00⟩ a⟨202e⟩b'
    """
    plain = _TERMINAL_SEQUENCE.sub("", text.replace("\r\n", "\n"))
    return _HIDDEN.sub(lambda found: f"⟨{ord(found[0]):02x}⟩", plain)


def first_line(text: str, width: int = 140) -> str:
    """
    >>> first_line("  add() subtracts\\nsee below")
    'add() subtracts'
    """
    line = visible(text.strip().partition("\n")[0]).replace("\t", " ")
    return line if len(line) <= width else f"{line[: width - 1]}…"


def count(number: float) -> str:
    """
    >>> count(950), count(9876), count(12_345), count(120_000), count(3_400_000)
    ('950', '9,876', '12.3k', '120k', '3.4M')
    """
    if number < 10_000:
        return f"{number:,.0f}"
    size, letter = next(unit for unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= unit[0])
    return f"{number / size:.1f}".removesuffix(".0") + letter


def duration(seconds: float | None) -> str:
    """
    >>> duration(0.01), duration(0.42), duration(75), duration(7200), duration(None)
    ('< 0.1 s', '0.4 s', '1 min 15 s', '2 h', '–')
    """
    if seconds is None:
        return "–"
    if seconds < 0.05:
        return "< 0.1 s"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    large, small = ("min", "s") if seconds < 3600 else ("h", "min")
    whole, rest = divmod(int(seconds) if large == "min" else int(seconds) // 60, 60)
    return f"{whole} {large} {rest} {small}" if rest else f"{whole} {large}"


def ago(at: datetime, now: datetime | None = None) -> str:
    """
    >>> noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    >>> ago(noon, noon), ago(noon, datetime(2026, 1, 2, 15, tzinfo=UTC)), ago(noon, datetime(2026, 3, 2, tzinfo=UTC))
    ('just now', '3 h ago', '2026-01-02')
    """
    seconds = ((now or datetime.now(UTC)) - at).total_seconds()
    if seconds < 45:
        return "just now"
    for size, name, end in ((60, "min", 3600), (3600, "h", 86_400), (86_400, "d", 14 * 86_400)):
        if seconds < end:
            return f"{max(1, round(seconds / size))} {name} ago"
    return f"{at:%Y-%m-%d}"
