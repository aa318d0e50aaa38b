"""The page itself: sections of tables and charts in one HTML file without script, network or fonts of its own."""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --soft: #5b6470; --line: #d9dee4;
  --panel: #f6f8fa; --on: #fff; --shade: #0003;
  --c0: #0b6bcb; --c1: #c2410c; --c2: #0f8a5f; --c3: #9333ea; --c4: #b8860b; --c5: #be185d; --c6: #0e7490; --c7: #57534e; }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --text: #e8eaed; --soft: #a0a9b4; --line: #333a43;
  --panel: #1c2127; --on: #0b0d10; --shade: #fff4;
  --c0: #6cb2ff; --c1: #ff9a62; --c2: #4fd1a1; --c3: #c792ff; --c4: #e8c14a; --c5: #ff7eb6; --c6: #5fd0e6; --c7: #bdb7b0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 16px; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.5rem; margin: .2em 0; } h2 { font-size: 1.2rem; margin: 2em 0 .5em; border-top: 1px solid var(--line); padding-top: 1em; }
h3 { font-size: 1rem; margin: 1.4em 0 .4em; } p { margin: .4em 0; max-width: 75ch; } .soft { color: var(--soft); }
.small { font-size: .8rem; }
.wide { overflow-x: auto; max-width: 100%; background:
    linear-gradient(to right, var(--back) 30%, transparent) left / 40px 100% no-repeat local,
    linear-gradient(to left, var(--back) 30%, transparent) right / 40px 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) left / 14px 100% no-repeat scroll,
    linear-gradient(to left, var(--shade), transparent) right / 14px 100% no-repeat scroll; }
.wide td.text { white-space: normal; min-width: 16em; max-width: 44em; overflow-wrap: anywhere; }
nav { font-size: .9rem; columns: 16em; margin: 1em 0; } nav ul { margin: 0; padding-left: 1.2em; } nav > ul { padding-left: 0; }
nav li { list-style: none; break-inside: avoid; } a { color: var(--c0); } code { overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2em 1em; font-size: .9rem; margin: .4em 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3em .8em .3em 0; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } td.n, th.n { text-align: right; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 6px; min-width: 0; }
.charts:has(.pair) { grid-template-columns: repeat(auto-fill, minmax(min(100%, 560px), 1fr)); }
.charts { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
figure { margin: 0; padding: 10px; background: var(--panel); border-radius: 8px; min-width: 0; }
figcaption { font-weight: 600; font-size: .9rem; margin-bottom: .3em; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--soft); } svg text.on { fill: var(--on); } .grid { stroke: var(--line); }
.line { fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round; }
.rule { stroke: var(--soft); stroke-dasharray: 4 3; } .fill { fill: currentColor; } .dot { fill: currentColor; fill-opacity: .75; }
.cell { fill: var(--c0); stroke: var(--line); stroke-width: .5; } .heat { stroke: var(--line); stroke-width: .5; }
details { margin: .4em 0; } summary { cursor: pointer; color: var(--c0); font-size: .9rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2em 1em; list-style: none; margin: .4em 0 0; padding: 0; font-size: .8rem; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; background: currentColor; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); }
.c4 { color: var(--c4); } .c5 { color: var(--c5); } .c6 { color: var(--c6); } .c7 { color: var(--c7); }
"""


@dataclass(frozen=True)
class Section:
    """A part of the page with its heading, and its own parts with theirs; a part without a heading is "" and html."""

    title: str
    parts: tuple[tuple[str, str], ...]

    @property
    def anchor(self) -> str:
        """The identifier in links."""
        return _slug(self.title)

    def html(self) -> str:
        """Return the section with its headings."""
        body = [f'<h2 id="{self.anchor}">{escape(self.title)}</h2>']
        for title, part in self.parts:
            if title:
                body.append(f'<h3 id="{self.anchor}--{_slug(title)}">{escape(title)}</h3>')
            body.append(part)
        return "\n".join(body)

    def links(self) -> str:
        """Return the entry of the table of contents."""
        inner = "".join(
            f'<li><a href="#{self.anchor}--{_slug(title)}">{escape(title)}</a></li>' for title, _ in self.parts if title
        )
        return f'<li><a href="#{self.anchor}">{escape(self.title)}</a>{f"<ul>{inner}</ul>" if inner else ""}</li>'


def _slug(title: str) -> str:
    # Nothing is left of a title in another script.
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or f"section-{zlib.crc32(title.encode()):08x}"


def page(title: str, sections: Sequence[Section]) -> str:
    """Return the whole file: the title, a table of contents and the sections."""
    shown = [section for section in sections if section.parts]
    contents = f'<nav aria-label="Contents"><ul>{"".join(section.links() for section in shown)}</ul></nav>'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n{contents}\n"
        + "\n".join(section.html() for section in shown)
        + "\n</body></html>\n"
    )


def section(title: str, *parts: tuple[str, str]) -> Section:
    """Return a section without the parts in which there is nothing."""
    return Section(title, tuple(part for part in parts if part[1]))


def charts(drawn: Sequence[str], text: str = "") -> str:
    """Return charts side by side where there is room, with a sentence above; empty where there are none."""
    shown = [chart for chart in drawn if chart]
    return f'{paragraph(text)}<div class="charts">{"".join(shown)}</div>' if shown else ""


def paragraph(text: str) -> str:
    """Return a sentence or two in a softer tone."""
    return f'<p class="soft">{escape(text)}</p>' if text else ""


def facts(entries: Sequence[tuple[str, str]]) -> str:
    """Return names and values as a list, without empty ones."""
    shown = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in entries if value)
    return f"<dl>{shown}</dl>" if shown else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1, long_columns: int = 0) -> str:
    """Return a table that scrolls sideways where it is too wide, with a shadow at the edge that hides columns.

    Args:
        text_columns: the first columns, aligned to the left; the others are numbers, aligned to the right.
        long_columns: the last columns, with texts that may be broken over lines.
    """
    if not rows:
        return ""

    def cells(kind: str, values: Sequence[str]) -> str:
        parts = []
        for place, value in enumerate(values):
            number, long = text_columns <= place < len(values) - long_columns, place >= len(values) - long_columns
            style = ' class="text"' if long else ' class="n"' if number else ""
            parts.append(f"<{kind}{style}>{escape(value)}</{kind}>")
        return "".join(parts)

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    # Focusable, so that it can be scrolled with the keyboard.
    return f'<div class="wide" tabindex="0"><table><tr>{cells("th", head)}</tr>{body}</table></div>'


def folded(title: str, html: str) -> str:
    """Return a part of the page that opens by a click on its title; empty where there is nothing in it."""
    return f"<details><summary>{escape(title)}</summary>{html}</details>" if html else ""
