"""Charts as inline SVG: lines, values with intervals, a matrix, and points.

Colors are those of the page's style sheet, so that dark and light both work. Every chart is drawn 360 wide, so that its
text stays readable on a telephone, which shows it at that width.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 10, 36
COLORS = 8
"""Classes c0 to c7 of the page's style sheet; a ninth label shares the color of the first."""

Points = Sequence[tuple[float, float]]


UNBOUNDED = (-math.inf, math.inf)
OUTLIER = 8.0
"""A value this many times as far from the median as 9 of 10 values is cut off, so that the others can be seen."""


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers from `low` to `high`, at most `most` and at least two."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    marks: list[float] = []
    # One decade finer than the estimate, so that the search begins with too many ticks.
    exponent = math.floor(math.log10((high - low) / most)) - 1
    for step in (factor * 10.0**power for power in range(exponent, exponent + 4) for factor in (1, 2, 5)):
        # The small shift keeps a tick at an end that is a multiple of the step, despite rounding.
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        finer, marks = marks, [round(number * step, 12) for number in range(first, last + 1)]
        if len(marks) <= most:
            # With one tick alone, a reader cannot tell the scale.
            return marks if len(marks) > 1 else [low, high] if len(finer) > 2 * most else finer
    return marks


def lines(
    title: str, series: Mapping[str, Points], *, unit: str = "step", bounds: tuple[float, float] = UNBOUNDED,
    cut_outliers: bool = False,
) -> str:  # fmt: skip
    """Draw a line for each series of (x, y), all in one frame; empty where there is nothing to draw.

    Args:
        bounds: the lowest and highest possible y, which the axis does not go beyond.
        cut_outliers: end the axis where nearly all values are, and say below how many are outside.
    """
    drawn = {name: points for name, points in series.items() if points}
    if not drawn:
        return ""
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    low, high = inner_range(ys) if cut_outliers else (min(ys), max(ys))
    frame = _Frame(min(xs), max(xs), *_with_air(low, high, bounds))
    body = [frame.axes(unit)]
    for number, points in enumerate(drawn.values()):
        path = " ".join(f"{frame.x(x):.1f},{frame.y(min(max(y, frame.low), frame.high)):.1f}" for x, y in points)
        shape = (
            # A line through a single point would be invisible.
            f'<circle class="c{number % COLORS} fill" cx="{path.split(",")[0]}" cy="{path.split(",")[1]}" r="3"/>'
            if len(points) == 1
            else f'<polyline class="c{number % COLORS} line" points="{path}"/>'
        )
        body.append(shape)
    outside = [y for y in ys if not frame.low <= y <= frame.high]
    note = ""
    if outside:
        farthest = max(outside, key=abs)
        note = f"{len(outside)} of {len(ys)} points are outside the frame and drawn on its edge, the farthest at {farthest:.4g}."
    return _figure(title, "".join(body), HEIGHT, list(drawn), note)


def inner_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the smallest and largest value that is not far outside the range of the others."""
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    distances = sorted(abs(value - middle) for value in ordered)
    # The distance within which 9 of 10 values are.
    reach = OUTLIER * distances[int(0.9 * (len(distances) - 1))]
    if not reach:  # nearly all values are the same, and the few others are what the chart shows
        return ordered[0], ordered[-1]
    inside = [value for value in ordered if abs(value - middle) <= reach]
    return inside[0], inside[-1]


def constant(series: Mapping[str, Points]) -> str | None:
    """Return `sst 1, quora 1` where no series changes, None where one does or there is none."""
    drawn = {name: [y for _, y in points] for name, points in series.items() if points}
    # Relative to the values, so that rounding is not taken for a change.
    if not drawn or any(max(ys) - min(ys) > 1e-6 * max(1e-12, *map(abs, ys)) for ys in drawn.values()):
        return None
    return ", ".join(f"{name} {ys[0]:.4g}" for name, ys in drawn.items())


def scatter(title: str, places: Points, x_name: str, y_name: str, *, diagonal: bool = False) -> str:
    """Draw a dot for each (x, y) on numbered axes, with the line on which both are equal, or y is 0."""
    if not places:
        return ""
    xs, ys = [x for x, _ in places], [y for _, y in places]
    if diagonal:
        # The same range for both axes, so that the diagonal runs from corner to corner.
        xs = ys = [*xs, *ys]
    frame = _Frame(
        *_with_air(min(xs), max(xs)), *_with_air(*((min(ys), max(ys)) if diagonal else (min(*ys, 0.0), max(*ys, 0.0))))
    )
    ends = (frame.left, frame.right) if diagonal else (0.0, 0.0)
    body = [
        frame.axes(x_name),
        f'<line class="rule" x1="{frame.x(frame.left):.1f}" y1="{frame.y(ends[0]):.1f}" '
        f'x2="{frame.x(frame.right):.1f}" y2="{frame.y(ends[1]):.1f}"/>',
        *(f'<circle class="c0 dot" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2"/>' for x, y in places),
    ]
    return _figure(title, "".join(body), HEIGHT, [], f"Across: {x_name}; up: {y_name}.")


def intervals(
    title: str, rows: Sequence[tuple[str, float, float, float]], *, bounds: tuple[float, float] = UNBOUNDED
) -> str:
    """Draw a line for each (name, value, low, high): a point on its interval. The axis stays within `bounds`."""
    if not rows:
        return ""
    height = TOP + 24 * len(rows) + BOTTOM
    low, high = _with_air(min(row[2] for row in rows), max(row[3] for row in rows), bounds)
    left, right = 120, WIDTH - 14

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    body = []
    for tick in ticks(low, high, 4):
        body.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        body.append(_text(x(tick), height - 10, f"{tick:g}", "middle"))
    for number, (name, value, bottom, top) in enumerate(rows):
        y = TOP + 24 * number + 12
        color = f"c{number % COLORS}"
        body.append(_text(left - 8, y + 4, _cut(name, 18), "end"))
        body.append(f'<line class="{color} line" x1="{x(bottom):.1f}" x2="{x(top):.1f}" y1="{y}" y2="{y}"/>')
        body.append(
            f'<circle class="{color} fill" cx="{x(value):.1f}" cy="{y}" r="4"><title>{value:.4f}</title></circle>'
        )
    return _figure(title, "".join(body), height, [])


def matrix(title: str, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Draw targets as rows and predictions as columns; a cell is as dark as its share of the row.

    Names of columns are slanted where they would not fit above their column.
    """
    # Widths below are estimates: a character of 11 px is about 6.2 wide, and slanted about 4.6 high.
    size = len(labels)
    left = 110
    slanted = max(map(len, labels)) * 6.2 > (WIDTH - left - 8) / size - 4
    reach = min(max(map(len, labels)), 18) * 4.6 + 8 if slanted else 22.0
    top = 22 + reach
    right = max(8.0, reach - (WIDTH - left - 8) / size / 2) if slanted else 8.0  # the last name leans over its column
    cell = (WIDTH - left - right) / size
    height = top + min(cell, 44) * size + 12
    tall = min(cell, 44)
    body = [_text(left + (WIDTH - left - right) / 2, 12, "predicted", "middle")]
    for number, label in enumerate(labels):
        body.append(_text(left - 6, top + tall * (number + 0.5) + 4, _cut(label, 17), "end"))
        x, y = left + cell * (number + 0.5), top - 6
        body.append(_text(x, y, _cut(label, 18), "start", turn=-45) if slanted else _text(x, y, label, "middle"))
    for row, row_counts in enumerate(counts):
        total = sum(row_counts)
        for column, count in enumerate(row_counts):
            share = count / total if total else 0.0
            x, y = left + cell * column, top + tall * row
            body.append(
                f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{cell - 1:.1f}" height="{tall - 1:.1f}" '
                f'fill-opacity="{share:.3f}"><title>{escape(labels[row])} as {escape(labels[column])}: {count}</title></rect>'
            )
            # Light text on dark cells.
            tone = "on" if share > 0.55 else "axis"
            body.append(
                f'<text class="{tone}" x="{x + cell / 2:.1f}" y="{y + tall / 2 + 4:.1f}" text-anchor="middle">{count}</text>'
            )
    return _figure(title, "".join(body), height, [])


def heat(
    title: str, names: Sequence[str], values: Sequence[Sequence[float | None]], notes: Sequence[Sequence[str]], *, digits: int = 2,
) -> str:  # fmt: skip
    """Draw a square matrix of numbers: blue above 0, orange below, as dark as the number is far from 0; None is an empty cell.

    Args:
        values: (k, k), rows first.
        notes: what the tooltip of each cell says below its names, such as an interval.
    """
    known = [abs(value) for row in values for value in row if value is not None]
    if not known:
        return ""
    most, size, left, right = max(known) or 1.0, len(names), 84, 8.0
    slanted = max(map(len, names)) * 6.2 > (WIDTH - left - right) / size - 4
    reach = min(max(map(len, names)), 18) * 4.6 + 8 if slanted else 8.0
    right = max(8.0, reach - (WIDTH - left - 8) / size / 2) if slanted else 8.0
    cell, top = (WIDTH - left - right) / size, 10 + reach
    tall = min(cell, 40)
    body = []
    for number, name in enumerate(names):
        body.append(_text(left - 6, top + tall * (number + 0.5) + 4, _cut(name, 13), "end"))
        x, y = left + cell * (number + 0.5), top - 6
        body.append(_text(x, y, _cut(name, 18), "start", turn=-45) if slanted else _text(x, y, name, "middle"))
    for row, of_row in enumerate(values):
        for column, value in enumerate(of_row):
            x, y = left + cell * column, top + tall * row
            words = escape(f"{names[row]}, {names[column]}: {notes[row][column]}")
            share = 0.0 if value is None else abs(value) / most
            color = "c1" if value is not None and value < 0 else "c0"
            body.append(
                f'<rect class="{color} fill heat" x="{x:.1f}" y="{y:.1f}" width="{cell - 1:.1f}" height="{tall - 1:.1f}" '
                f'fill-opacity="{0.85 * share:.3f}"><title>{words}</title></rect>'
            )
            if value is not None:
                # A rounded -0.00 would claim a direction.
                shown = f"{round(value, digits) + 0.0:.{digits}f}"
                tone = "on" if share > 0.6 else "axis"
                body.append(
                    f'<text class="{tone}" x="{x + cell / 2:.1f}" y="{y + tall / 2 + 4:.1f}" text-anchor="middle">{shown}</text>'
                )
    return _figure(title, "".join(body), top + tall * size + 8, [])


def reliability(title: str, bins: Sequence[tuple[float, float, float]], note: str) -> str:
    """Draw a reliability diagram: accuracy as a bar for each bin of confidence, and how many rows the bin has below it.

    Args:
        bins: rows, mean confidence and accuracy of bins of equal width from 0 to 1; bins without rows are not drawn.
        note: a sentence below the diagram.
    """
    drawn = [(place, *values) for place, values in enumerate(bins) if values[0] > 0]
    if not drawn:
        return ""
    frame = _Frame(0.0, 1.0, 0.0, 1.0)
    # The bars of rows are below the diagram, so it is higher than other charts.
    bottom, below, height = frame.y(0.0), 46, HEIGHT + 60
    most = max(rows for _, rows, _, _ in drawn)
    width = (frame.x(1.0) - frame.x(0.0)) / len(bins)
    floor = height - BOTTOM
    body = [frame.grid()]
    for place, rows, confidence, accuracy in drawn:
        left, top, mark = frame.x(place / len(bins)) + 0.5, frame.y(accuracy), frame.y(confidence)
        words = (
            f"confidence {place / len(bins):.2f} to {(place + 1) / len(bins):.2f}: {rows:.4g} rows, accuracy {accuracy:.3f}, mean "
            f"confidence {confidence:.3f}"
        )
        body.append(
            f"<g><title>{escape(words)}</title>{_bar('c0', left, top, width, bottom - top)}"
            f"{_bar('c7', left, floor - below * rows / most, width, below * rows / most)}"
            f'<line class="c1 line" x1="{left:.1f}" x2="{left + width - 1:.1f}" y1="{mark:.1f}" y2="{mark:.1f}"/></g>'
        )
    body.append(
        f'<line class="rule" x1="{frame.x(0):.1f}" y1="{frame.y(0):.1f}" x2="{frame.x(1):.1f}" y2="{frame.y(1):.1f}"/>'
    )
    body += [_text(LEFT - 5, floor - below + 8, f"{most:.4g}", "end"), _text(LEFT - 5, floor, "0", "end")]
    body += [_text(frame.x(tick), floor + 15, f"{tick:g}", "middle") for tick in ticks(0.0, 1.0)]
    body.append(_text((LEFT + WIDTH - RIGHT) / 2, height - 5, "confidence", "middle"))
    return _figure(title, "".join(body), height, ["accuracy", "mean confidence"], f"Below: rows in each bin. {note}")


def _bar(color: str, x: float, y: float, width: float, height: float) -> str:
    return (
        f'<rect class="{color} fill" x="{x:.1f}" y="{y:.1f}" width="{max(1.0, width - 1):.1f}" height="{max(0.0, height):.1f}" '
        'fill-opacity="0.6"/>'
    )


def points(title: str, places: Points, groups: Sequence[int], names: Sequence[str]) -> str:
    """Draw a dot for each place, in the color of its group."""
    if not places:
        return ""
    xs, ys = [x for x, _ in places], [y for _, y in places]
    # The axes of a projection have no unit.
    frame = _Frame(*_with_air(min(xs), max(xs)), *_with_air(min(ys), max(ys)), plain=True)
    dots = "".join(
        f'<circle class="c{group % COLORS} dot" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.2"/>'
        for (x, y), group in zip(places, groups, strict=True)
    )
    return _figure(title, dots, HEIGHT, list(names))


def dots(title: str, places: Points, groups: Sequence[int], x_name: str, y_name: str) -> str:
    """Draw a dot for each (x, y) on numbered axes; those of group 0 are pale."""
    if not places:
        return ""
    xs, ys = [x for x, _ in places], [y for _, y in places]
    frame = _Frame(*_with_air(min(xs), max(xs)), *_with_air(min(ys), max(ys)))
    body = [frame.axes("")]
    for (x, y), group in zip(places, groups, strict=True):
        pale = "" if group else ' opacity="0.35"'
        body.append(f'<circle class="c0 fill" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3"{pale}/>')
    return _figure(title, "".join(body), HEIGHT, [], f"Across: {x_name}; up: {y_name}.")


def parallel(
    title: str,
    axes: Sequence[tuple[str, Sequence[float | None], Sequence[str]]],
    scores: Sequence[float],
    maximizes: bool,
) -> str:
    """Draw a line for each of n items over vertical axes, each from its smallest to its largest value; the best lines are darkest.

    Args:
        axes: (name, values (n,) with None where an item has none, names of the values 0, 1, ... of choices) each.
        scores: (n,), by which lines are shaded.
    """
    bottom, top = HEIGHT - BOTTOM, TOP + 14
    step = (WIDTH - LEFT - RIGHT) / max(1, len(axes) - 1)
    # From the worst to the best, because later lines are drawn on top. The cube leaves only the best ones dark.
    order = sorted(range(len(scores)), key=lambda item: scores[item] if maximizes else -scores[item])
    shade = {item: 0.12 + 0.88 * (place / max(1, len(order) - 1)) ** 3 for place, item in enumerate(order)}
    places: list[list[tuple[float, float]]] = [[] for _ in scores]
    body = []
    for number, (name, values, names) in enumerate(axes):
        x = LEFT + number * step
        known = [value for value in values if value is not None]
        low, high = min(known), max(known)
        body.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        # Two heights in turn, so that long names of neighbors do not overlap.
        body.append(_text(x, top - 8 if number % 2 else top - 20, _cut(name.rpartition(".")[2], 16), "middle"))
        ends = [(low, bottom + 14), (high, top + 2)] if high > low else [(low, bottom + 14)]
        for end, y in ends:
            body.append(_text(x, y, _cut(names[int(end)] if names else f"{end:.3g}", 10), "middle"))
        for item, value in enumerate(values):
            if value is not None:
                share = 0.5 if high == low else (value - low) / (high - low)
                places[item].append((x, bottom - share * (bottom - top)))
    for item in order:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places[item])
        body.append(f'<polyline class="c0 line" opacity="{shade[item]:.2f}" points="{path}"/>')
    note = "A line is a trial; the darker, the better. Axes go from the smallest to the largest value."
    return _figure(title, "".join(body), HEIGHT, [], note)


class _Frame:
    """The map from numbers to places in a chart."""

    def __init__(self, left: float, right: float, low: float, high: float, plain: bool = False) -> None:
        # A range without width would divide by zero.
        self.left, self.right = (left, right) if right > left else (left - 1, left + 1)
        self.low, self.high = low, high if high > low else low + 1
        self.margins = (6, 6, 6, 6) if plain else (LEFT, RIGHT, TOP, BOTTOM)

    def x(self, value: float) -> float:
        start, end = self.margins[0], WIDTH - self.margins[1]
        return start + (value - self.left) / (self.right - self.left) * (end - start)

    def y(self, value: float) -> float:
        start, end = HEIGHT - self.margins[3], self.margins[2]
        return start + (value - self.low) / (self.high - self.low) * (end - start)

    def grid(self) -> str:
        """Return a line and a number for each tick of y."""
        body = []
        for tick in ticks(self.low, self.high):
            y = self.y(tick)
            body.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            body.append(_text(LEFT - 5, y + 4, f"{tick:g}", "end"))
        return "".join(body)

    def axes(self, unit: str) -> str:
        """Return grid and numbers, with the unit of x below."""
        body = [self.grid()]
        body += [
            _text(self.x(tick), HEIGHT - BOTTOM + 15, f"{tick:g}", "middle") for tick in ticks(self.left, self.right)
        ]
        body.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, unit, "middle"))
        return "".join(body)


def _with_air(low: float, high: float, bounds: tuple[float, float] = UNBOUNDED) -> tuple[float, float]:
    """Widen a range by a twentieth on each side, but not beyond the bounds of what is possible."""
    # For equal ends, a twentieth of the value, or 0.5 if that is 0 too.
    air = 0.05 * (high - low) or 0.05 * abs(low) or 0.5
    # A value beyond the bounds widens them, so that it stays visible.
    return max(low - air, min(low, bounds[0])), min(high + air, max(high, bounds[1]))


def _text(x: float, y: float, text: str, anchor: str, *, turn: float = 0.0) -> str:
    turned = f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text class="axis" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>{escape(text)}</text>'


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: max(1, most - 1)]}…"


def pair(charts: Iterable[str]) -> str:
    """Return charts that are read together, side by side however narrow the page is."""
    return f'<div class="pair">{"".join(charts)}</div>'


def _figure(title: str, body: str, height: float, names: Sequence[str], note: str = "") -> str:
    legend = "".join(
        f'<li><span class="c{number % COLORS} swatch"></span>{escape(name)}</li>' for number, name in enumerate(names)
    )
    below = f'<ul class="legend">{legend}</ul>' if legend else ""
    below += f'<p class="soft small">{escape(note)}</p>' if note else ""
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">{body}</svg>{below}</figure>'
    )
