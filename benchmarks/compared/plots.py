"""Line plots in SVG, written by hand: the same figures are the same bytes, and both themes of a reader can be read."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 34, 44
INKS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#888888", "#777700")
"""Told apart by the colour-blind as well; each line has a mark of its own besides."""
MARKS = ("circle", "square", "diamond", "circle", "square", "diamond", "circle", "square")


@dataclass(frozen=True)
class Plot:
    """`lines`: by name, points (x, y). x positions are categories, in the order of `ticks`."""

    title: str
    x: str
    y: str
    ticks: Sequence[str]
    lines: Mapping[str, Sequence[tuple[str, float]]]


def _steps(most: float) -> list[float]:
    """Round values from 0 on, about five."""
    if most <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(most))
    step = next(size * power for size in (0.2, 0.25, 0.5, 1.0, 2.0) if most / (size * power) <= 5.5)
    count = math.ceil(most / step)
    return [step * number for number in range(max(1, count) + 1)]


def _mark(kind: str, x: float, y: float, ink: str) -> str:
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{ink}"/>'
    turned = f' transform="rotate(45 {x:.1f} {y:.1f})"' if kind == "diamond" else ""
    return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7" fill="{ink}"{turned}/>'


def drawn(plot: Plot) -> str:
    """The picture. A line without points is left out; so is a plot's ink of arms that are missing."""
    lines = {name: points for name, points in plot.lines.items() if points}
    steps = _steps(max((y for points in lines.values() for _, y in points), default=1.0))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def across(tick: str) -> float:
        place = list(plot.ticks).index(tick)
        return LEFT + wide * (place + 0.5) / len(plot.ticks)

    def up(value: float) -> float:
        return TOP + high * (1 - value / steps[-1])

    told = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(plot.title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" font-size="14" fill="#222222">{escape(plot.title)}</text>',
    ]
    for value in steps:
        told.append(f'<line x1="{LEFT}" x2="{LEFT + wide}" y1="{up(value):.1f}" y2="{up(value):.1f}" stroke="#dddddd"/>')
        told.append(f'<text x="{LEFT - 8}" y="{up(value) + 4:.1f}" text-anchor="end" fill="#444444">{value:g}</text>')
    told.extend(
        f'<text x="{across(tick):.1f}" y="{TOP + high + 18}" text-anchor="middle" fill="#444444">{escape(tick)}</text>'
        for tick in plot.ticks
    )
    told.append(f'<text x="{LEFT + wide / 2:.1f}" y="{HEIGHT - 8}" text-anchor="middle" fill="#222222">{escape(plot.x)}</text>')
    middle = TOP + high / 2
    told.append(
        f'<text x="14" y="{middle:.1f}" text-anchor="middle" fill="#222222" transform="rotate(-90 14 {middle:.1f})">{escape(plot.y)}</text>'
    )
    for number, (name, points) in enumerate(lines.items()):
        ink, mark = INKS[number % len(INKS)], MARKS[number % len(MARKS)]
        at = [(across(x), up(y)) for x, y in points]
        told.append(f'<polyline fill="none" stroke="{ink}" stroke-width="2" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in at)}"/>')
        told.extend(_mark(mark, x, y, ink) for x, y in at)
        y = TOP + 10 + number * 20
        told.append(_mark(mark, WIDTH - RIGHT + 16, y, ink))
        told.append(f'<text x="{WIDTH - RIGHT + 28}" y="{y + 4}" fill="#222222">{escape(name)}</text>')
    return "\n".join([*told, "</svg>", ""])


def write(file: Path, plot: Plot) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(drawn(plot))
