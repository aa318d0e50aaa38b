"""Draw one picture for each family of architectures: what all tasks share, what one task has to itself, and what feeds what."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 250
BOX_HEIGHT = 34
SHARED, OWN, FROZEN = "#cfe3f7", "#fbe2c4", "#e6e6e6"
"""Colors of what all tasks share, of what one task has, and of what is not trained."""


@dataclass(frozen=True)
class Box:
    """A labeled box, at the middle of its lower edge."""

    text: str
    x: int
    y: int
    color: str
    width: int = 130


@dataclass(frozen=True)
class Arrow:
    """An arrow between two points; dashed for a gradient that is reversed."""

    start: tuple[int, int]
    end: tuple[int, int]
    dashed: bool = False


def up(lower: Box, upper: Box, *, dashed: bool = False) -> Arrow:
    """Return an arrow from the top of a box to the bottom of another."""
    return Arrow((lower.x, lower.y - BOX_HEIGHT), (upper.x, upper.y), dashed)


def across(first: Box, second: Box) -> Arrow:
    """Return an arrow from the side of a box to the side of another at its right."""
    return Arrow(
        (first.x + first.width // 2, first.y - BOX_HEIGHT // 2),
        (second.x - second.width // 2, second.y - BOX_HEIGHT // 2),
    )


def parallel() -> tuple[str, list[Box], list[Arrow]]:
    """Shared features beside private ones."""
    encoder = Box("shared encoder", 380, 220, SHARED, 300)
    common = Box("shared features", 380, 150, SHARED, 160)
    private = [Box("private features", 150, 150, OWN), Box("private features", 610, 150, OWN)]
    heads = [Box("head of task A", 230, 70, OWN), Box("head of task B", 530, 70, OWN)]
    arrows = [up(encoder, common), *(up(encoder, box) for box in private)]
    arrows += [up(box, head) for box, head in zip(private, heads, strict=True)] + [up(common, head) for head in heads]
    return "Parallel: each task combines shared features with its own", [encoder, common, *private, *heads], arrows


def hierarchical() -> tuple[str, list[Box], list[Arrow]]:
    """What a lower task predicts feeds a higher one."""
    encoder = Box("shared encoder", 380, 220, SHARED, 300)
    low = Box("head of a low task", 170, 130, OWN, 160)
    high = Box("head of a high task", 590, 70, OWN, 160)
    features = Box("states + predictions", 590, 145, OWN, 170)
    return (
        "Hierarchical: a higher task reads what a lower one predicts for the same text",
        [encoder, low, features, high],
        [up(encoder, low), up(encoder, features), across(low, features), up(features, high)],
    )


def modular() -> tuple[str, list[Box], list[Arrow]]:
    """Small modules in a frozen encoder."""
    layers = [Box(f"layer {number} (frozen)", 380, 225 - 60 * number, FROZEN, 170) for number in range(3)]
    modules = [Box("module of A", 150, layer.y, OWN, 120) for layer in layers]
    modules += [Box("module of B", 610, layer.y, OWN, 120) for layer in layers]
    heads = [Box("head of task A", 260, 45, OWN), Box("head of task B", 500, 45, OWN)]
    arrows = [up(lower, upper) for lower, upper in itertools.pairwise(layers)]
    arrows += [across(module, layer) for module, layer in zip(modules[:3], layers, strict=True)]
    arrows += [
        Arrow((module.x - 60, module.y - 17), (layer.x + 85, layer.y - 17))
        for module, layer in zip(modules[3:], layers, strict=True)
    ]
    arrows += [up(layers[-1], head) for head in heads]
    return (
        "Modular: small modules of each task, or of all, in the layers of one frozen encoder",
        [*layers, *modules, *heads],
        arrows,
    )


def adversarial() -> tuple[str, list[Box], list[Arrow]]:
    """A discriminator whose gradient is reversed."""
    encoder = Box("shared encoder", 380, 220, SHARED, 300)
    features = Box("shared features", 380, 145, SHARED, 160)
    heads = [Box("head of task A", 170, 70, OWN), Box("head of task B", 380, 70, OWN)]
    discriminator = Box("which task?", 610, 70, SHARED)
    arrows = [up(encoder, features), *(up(features, head) for head in heads), up(features, discriminator, dashed=True)]
    return (
        "Adversarial: a discriminator learns the task, and its reversed gradient (dashed) hides it",
        [encoder, features, *heads, discriminator],
        arrows,
    )


FAMILIES = {"parallel": parallel, "hierarchical": hierarchical, "modular": modular, "adversarial": adversarial}


def draw(family: str) -> str:
    """Return the picture of a family as SVG."""
    title, boxes, arrows = FAMILIES[family]()
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="14">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *map(_arrow, arrows),
        *map(_box, boxes),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _arrow(arrow: Arrow) -> str:
    dashes = ' stroke-dasharray="5 4"' if arrow.dashed else ""
    points: Sequence[int] = (*arrow.start, *arrow.end)
    return '<line x1="{}" y1="{}" x2="{}" y2="{}" stroke="#555"{} marker-end="url(#tip)"/>'.format(*points, dashes)


def _box(box: Box) -> str:
    left, top = box.x - box.width // 2, box.y - BOX_HEIGHT
    return (
        f'<rect x="{left}" y="{top}" width="{box.width}" height="{BOX_HEIGHT}" rx="5" fill="{box.color}" stroke="#555"/>'
        f'<text x="{box.x}" y="{box.y - 12}" text-anchor="middle">{escape(box.text)}</text>'
    )
