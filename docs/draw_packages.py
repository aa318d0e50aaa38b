"""Draw the packages of mtlcli and their imports as an SVG: docs/packages.txt gives the order, the source gives the arrows."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from test_packages import files, imports, module_of, order  # noqa: E402  the test and the picture share one source

BOX_HEIGHT, ROW_HEIGHT, GAP, MARGIN, BEND_WIDTH = 32, 76, 20, 24, 2  # pixels
LETTER_WIDTH = 7.6
SWEEPS = 12  # passes over the rows that sort each one by what it is connected to; more change nothing

Graph = dict[str, set[str]]


def package_imports() -> Graph:
    """Return the packages that each package imports, measured over every import statement of the source."""
    graph: Graph = {name: set() for name in order()}
    for path in files():
        package = module_of(path).split(".")[1]
        graph[package] |= {name.split(".")[1] for _, name in imports(path)} - {package}
    return graph


def reachable(graph: Graph, start: str) -> set[str]:
    """Return every package that `start` imports, directly or through others."""
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        package = waiting.pop()
        if package not in seen:
            seen.add(package)
            waiting += graph[package]
    return seen


def without_shortcuts(graph: Graph) -> Graph:
    """Return the graph without arrows that a longer path implies (its transitive reduction)."""
    return {
        package: {
            target
            for target in targets
            if not any(target in reachable(graph, between) for between in targets - {target})
        }
        for package, targets in graph.items()
    }


def rows_of(graph: Graph) -> list[list[str]]:
    """Return the packages in rows, ground first: a package is one row above the highest one that it imports."""
    height: dict[str, int] = {}
    for package in order():
        height[package] = 1 + max((height[target] for target in graph[package]), default=-1)
    rows: list[list[str]] = [[] for _ in range(max(height.values()) + 1)]
    for package in order():
        rows[height[package]].append(package)
    return rows


@dataclass
class Drawing:
    """Boxes and bends in rows, ground first, and the path of each arrow through them.

    A bend is a place without a box where an arrow passes a row, so that no arrow runs behind a box. Its name contains a space.
    """

    rows: list[list[str]]
    paths: list[list[str]]
    neighbors: Graph = field(default_factory=dict)
    centers: dict[str, float] = field(default_factory=dict)
    width: float = 0.0

    def lay_out(self, row: list[str]) -> None:
        """Set the horizontal centers of a row, in pixels, in the middle of the picture."""
        left = (self.width - row_width(row)) / 2
        for name in row:
            self.centers[name] = left + width_of(name) / 2
            left += width_of(name) + GAP

    def mean_of_neighbors(self, name: str) -> float:
        """Return the mean center of what a box or bend is connected to."""
        centers = [self.centers[other] for other in self.neighbors[name]]
        return sum(centers) / len(centers) if centers else self.centers[name]


def width_of(name: str) -> float:
    """Return the width of a box, or the room that a bend takes, in pixels."""
    return BEND_WIDTH if " " in name else 22 + LETTER_WIDTH * len(name)


def row_width(row: Iterable[str]) -> float:
    """Return the width of a row with its gaps in pixels."""
    return sum(width_of(name) + GAP for name in row) - GAP


def arrange(rows: list[list[str]], arrows: Graph) -> Drawing:
    """Return the drawing: arrows bend where they pass a row, and each row is sorted to keep arrows short."""
    level = {name: index for index, row in enumerate(rows) for name in row}
    drawing = Drawing([list(row) for row in rows], [])
    for name in order():
        for target in sorted(arrows[name], key=order().index):
            bends = {index: f"{name} {target} {index}" for index in range(level[name] - 1, level[target], -1)}
            for index, bend in bends.items():
                drawing.rows[index].append(bend)
            drawing.paths.append([name, *bends.values(), target])
    drawing.neighbors = {name: set() for row in drawing.rows for name in row}
    for path in drawing.paths:
        for upper, lower in pairwise(path):
            drawing.neighbors[upper].add(lower)
            drawing.neighbors[lower].add(upper)
    drawing.width = max(map(row_width, drawing.rows)) + 2 * MARGIN
    for row in drawing.rows:
        drawing.lay_out(row)
    for sweep in range(SWEEPS):
        for row in drawing.rows if sweep % 2 else reversed(drawing.rows):
            row.sort(key=lambda name: (drawing.mean_of_neighbors(name), name))
            drawing.lay_out(row)
    return drawing


def curve(points: Sequence[tuple[float, float, float]]) -> str:
    """Return an SVG path through (x, top, bottom) of each row that an arrow touches: curves between rows, lines within."""
    (x, _, y), *rest = points
    parts = [f"M{x:.0f} {y:.0f}"]
    for next_x, top, bottom in rest:
        bend = (top - y) / 2
        parts.append(f"C{x:.0f} {y + bend:.0f} {next_x:.0f} {top - bend:.0f} {next_x:.0f} {top:.0f}")
        if bottom > top:
            parts.append(f"V{bottom:.0f}")
        x, y = next_x, bottom
    return "".join(parts)


def draw(meanings: Mapping[str, str]) -> str:
    """Return the SVG. `meanings` is shown when the mouse rests on a box."""
    graph = package_imports()
    drawing = arrange(rows_of(graph), without_shortcuts(graph))
    height = 2 * MARGIN + ROW_HEIGHT * (len(drawing.rows) - 1) + BOX_HEIGHT
    tops = {
        name: height - MARGIN - BOX_HEIGHT - ROW_HEIGHT * index
        for index, row in enumerate(drawing.rows)
        for name in row
    }
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {drawing.width:.0f} {height:.0f}" width="{drawing.width:.0f}" '
        f'height="{height:.0f}" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="12.5">',
        "<title>Packages of mtlcli: each imports only from rows below its own</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#7b8794"/></marker></defs>',
        '<rect width="100%" height="100%" rx="8" fill="#fbfcfd"/>',
    ]
    for path in drawing.paths:
        points = [(drawing.centers[name], tops[name], tops[name] + BOX_HEIGHT) for name in path]
        last_x, last_top, _ = points[-1]
        shape = curve([*points[:-1], (last_x, last_top - 1, last_top - 1)])
        parts.append(f'<path d="{shape}" fill="none" stroke="#7b8794" stroke-width="1.1" marker-end="url(#tip)"/>')
    for name in order():
        center, width, top = drawing.centers[name], width_of(name), tops[name]
        parts.append(
            f'<g><title>{escape(meanings[name])}</title><rect x="{center - width / 2:.0f}" y="{top:.0f}" width="{width:.0f}" '
            f'height="{BOX_HEIGHT}" rx="6" fill="#e7f0fb" stroke="#3b6ea5"/><text x="{center:.0f}" '
            f'y="{top + BOX_HEIGHT / 2 + 4:.0f}" text-anchor="middle" fill="#15324f">{escape(name)}</text></g>'
        )
    return "\n".join([*parts, "</svg>\n"])
