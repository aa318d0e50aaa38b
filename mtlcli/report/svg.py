"""Charts as inline SVG: lines, values with intervals, a matrix, and points. Colours are the page's, so that dark and light both work.

Every chart is drawn 360 wide, so that its text stays readable where a telephone shows it at that width.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 26
COLOURS = 8
"""Classes c0 to c7 of the page's style sheet; an eleventh label shares the colour of the third."""

Points = Sequence[tuple[float, float]]


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, at most so many."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / most))
    while (high - low) / step > most:
        step *= 2 if f"{step:e}"[0] in "15" else 2.5
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def lines(title: str, series: Mapping[str, Points], *, unit: str = "step") -> str:
    """A line for each series of (x, y), all in one frame; empty where there is nothing to draw."""
    found = {name: points for name, points in series.items() if points}
    if not found:
        return ""
    xs = [x for points in found.values() for x, _ in points]
    ys = [y for points in found.values() for _, y in points]
    frame = _Frame(min(xs), max(xs), *_with_air(min(ys), max(ys)))
    body = [frame.axes()]
    for number, points in enumerate(found.values()):
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
        shape = (
            f'<circle class="c{number % COLOURS} fill" cx="{path.split(",")[0]}" cy="{path.split(",")[1]}" r="3"/>'
            if len(points) == 1
            else f'<polyline class="c{number % COLOURS} line" points="{path}"/>'
        )
        body.append(shape)
    body.append(f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 2}" text-anchor="end">{escape(unit)}</text>')
    return _figure(title, "".join(body), HEIGHT, list(found))


def intervals(title: str, rows: Sequence[tuple[str, float, float, float]]) -> str:
    """A line for each (name, value, low, high): a point on its interval."""
    if not rows:
        return ""
    height = TOP + 24 * len(rows) + BOTTOM
    low, high = _with_air(min(row[2] for row in rows), max(row[3] for row in rows))
    left, right = 120, WIDTH - 14

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    body = []
    for tick in ticks(low, high, 4):
        body.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        body.append(_text(x(tick), height - 10, f"{tick:g}", "middle"))
    for number, (name, value, bottom, top) in enumerate(rows):
        y = TOP + 24 * number + 12
        colour = f"c{number % COLOURS}"
        body.append(_text(left - 8, y + 4, _cut(name, 18), "end"))
        body.append(f'<line class="{colour} line" x1="{x(bottom):.1f}" x2="{x(top):.1f}" y1="{y}" y2="{y}"/>')
        body.append(
            f'<circle class="{colour} fill" cx="{x(value):.1f}" cy="{y}" r="4"><title>{value:.4f}</title></circle>'
        )
    return _figure(title, "".join(body), height, [])


def matrix(title: str, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Rows what was expected, columns what was predicted; a cell is as dark as its share of the row."""
    size = len(labels)
    left, top = 96, 44
    cell = (WIDTH - left - 8) / size
    height = top + min(cell, 44) * size + 12
    tall = min(cell, 44)
    body = [_text(left + (WIDTH - left - 8) / 2, 12, "predicted", "middle")]
    for number, label in enumerate(labels):
        body.append(_text(left - 6, top + tall * (number + 0.5) + 4, _cut(label, 14), "end"))
        body.append(_text(left + cell * (number + 0.5), top - 6, _cut(label, max(2, int(cell / 6.5))), "middle"))
    for row, found in enumerate(counts):
        total = sum(found)
        for column, count in enumerate(found):
            share = count / total if total else 0.0
            x, y = left + cell * column, top + tall * row
            body.append(
                f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{cell - 1:.1f}" height="{tall - 1:.1f}" '
                f'fill-opacity="{share:.3f}"><title>{escape(labels[row])} as {escape(labels[column])}: {count}</title></rect>'
            )
            tone = "on" if share > 0.55 else "axis"
            body.append(
                f'<text class="{tone}" x="{x + cell / 2:.1f}" y="{y + tall / 2 + 4:.1f}" text-anchor="middle">{count}</text>'
            )
    return _figure(title, "".join(body), height, [])


def points(title: str, places: Points, groups: Sequence[int], names: Sequence[str]) -> str:
    """A dot for each place, in the colour of its group."""
    if not places:
        return ""
    xs, ys = [x for x, _ in places], [y for _, y in places]
    frame = _Frame(*_with_air(min(xs), max(xs)), *_with_air(min(ys), max(ys)), plain=True)
    dots = "".join(
        f'<circle class="c{group % COLOURS} dot" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.2"/>'
        for (x, y), group in zip(places, groups, strict=True)
    )
    return _figure(title, dots, HEIGHT, list(names))


class _Frame:
    """From numbers to places on the page."""

    def __init__(self, left: float, right: float, low: float, high: float, plain: bool = False) -> None:
        self.left, self.right = (left, right) if right > left else (left - 1, left + 1)
        self.low, self.high = low, high
        self.margins = (6, 6, 6, 6) if plain else (LEFT, RIGHT, TOP, BOTTOM)

    def x(self, value: float) -> float:
        start, end = self.margins[0], WIDTH - self.margins[1]
        return start + (value - self.left) / (self.right - self.left) * (end - start)

    def y(self, value: float) -> float:
        start, end = HEIGHT - self.margins[3], self.margins[2]
        return start + (value - self.low) / (self.high - self.low) * (end - start)

    def axes(self) -> str:
        """Grid and numbers."""
        body = []
        for tick in ticks(self.low, self.high):
            y = self.y(tick)
            body.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            body.append(_text(LEFT - 5, y + 4, f"{tick:g}", "end"))
        body += [
            _text(self.x(tick), HEIGHT - BOTTOM + 16, f"{tick:g}", "middle")
            for tick in ticks(self.left, self.right, 4)
            if tick <= self.right - 0.12 * (self.right - self.left)  # the unit stands at the end
        ]
        return "".join(body)


def _with_air(low: float, high: float) -> tuple[float, float]:
    air = 0.05 * (high - low) or 0.05 * abs(low) or 0.5
    return low - air, high + air


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="axis" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: max(1, most - 1)]}…"


def _figure(title: str, body: str, height: float, names: Sequence[str]) -> str:
    legend = "".join(
        f'<li><span class="c{number % COLOURS} swatch"></span>{escape(name)}</li>' for number, name in enumerate(names)
    )
    below = f'<ul class="legend">{legend}</ul>' if legend else ""
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">{body}</svg>{below}</figure>'
    )
