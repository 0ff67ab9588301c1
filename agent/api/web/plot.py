"""Stacked bars over days: where each rectangle and line of the drawing lies.

Only numbers; the template draws them as SVG, whose colours are the style sheet's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

WIDTH, HEIGHT = 540, 190
_LEFT, _BOTTOM, _TOP = 52, 22, 8


@dataclass(frozen=True, slots=True)
class Bar:
    series: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Column:
    """One day: its bars from the bottom up, and the area that shows its values."""

    day: date
    values: tuple[int, ...]
    bars: tuple[Bar, ...]
    x: float
    width: float
    named: bool
    """Whether its date stands below it."""


@dataclass(frozen=True, slots=True)
class Plot:
    names: tuple[str, ...]
    columns: tuple[Column, ...]
    ticks: tuple[tuple[float, float], ...]
    """Heights of the grid's lines: value and y."""


def plot(names: Sequence[str], days: Sequence[tuple[date, Sequence[int]]]) -> Plot:
    """
    Args:
        names: of the series, lowest first.
        days: a value per series for each day.
    """
    top = _round_up(max((sum(values) for _, values in days), default=0))
    scale = (HEIGHT - _BOTTOM - _TOP) / top
    step = (WIDTH - _LEFT) / max(1, len(days))
    every = max(1, math.ceil(len(days) / 6))
    columns = tuple(
        _column(day, values, _LEFT + index * step, step, scale, named=index % every == 0)
        for index, (day, values) in enumerate(days)
    )
    ticks = tuple((value, HEIGHT - _BOTTOM - value * scale) for value in (0, top / 2, top))
    return Plot(tuple(names), columns, ticks)


def _column(day: date, values: Sequence[int], x: float, step: float, scale: float, *, named: bool) -> Column:
    bars: list[Bar] = []
    floor = float(HEIGHT - _BOTTOM)
    for series, value in enumerate(values):
        floor -= value * scale
        if value:
            left, width = round(x + step * 0.15, 1), round(step * 0.7, 1)
            bars.append(Bar(series, left, round(floor, 1), width, round(value * scale, 1)))
    return Column(day, tuple(values), tuple(bars), round(x, 1), round(step, 1), named)


def _round_up(value: float) -> float:
    """
    >>> _round_up(0), _round_up(7), _round_up(1234)
    (2, 8.0, 2000.0)
    """
    if value <= 2:
        return 2
    size = float(10 ** math.floor(math.log10(value)))
    return next(step * size for step in (1, 2, 4, 6, 8, 10) if step * size >= value)
