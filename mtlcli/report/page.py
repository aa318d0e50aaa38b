"""The page itself: sections of tables and charts in one HTML file without script, network or fonts of its own."""

from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --soft: #5b6470; --line: #d9dee4;
  --panel: #f6f8fa; --on: #fff;
  --c0: #0b6bcb; --c1: #c2410c; --c2: #0f8a5f; --c3: #9333ea; --c4: #b8860b; --c5: #be185d; --c6: #0e7490; --c7: #57534e; }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --text: #e8eaed; --soft: #a0a9b4; --line: #333a43;
  --panel: #1c2127; --on: #0b0d10;
  --c0: #6cb2ff; --c1: #ff9a62; --c2: #4fd1a1; --c3: #c792ff; --c4: #e8c14a; --c5: #ff7eb6; --c6: #5fd0e6; --c7: #bdb7b0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 16px; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.5rem; margin: .2em 0; } h2 { font-size: 1.2rem; margin: 2em 0 .5em; border-top: 1px solid var(--line); padding-top: 1em; }
h3 { font-size: 1rem; margin: 1.4em 0 .4em; } p { margin: .4em 0; max-width: 75ch; } .soft { color: var(--soft); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3em .8em .3em 0; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } td.n, th.n { text-align: right; }
.charts { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
figure { margin: 0; padding: 10px; background: var(--panel); border-radius: 8px; min-width: 0; }
figcaption { font-weight: 600; font-size: .9rem; margin-bottom: .3em; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--soft); } svg text.on { fill: var(--on); } .grid { stroke: var(--line); }
.line { fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round; }
.fill { fill: currentColor; } .dot { fill: currentColor; fill-opacity: .75; }
.cell { fill: var(--c0); stroke: var(--line); stroke-width: .5; }
.legend { display: flex; flex-wrap: wrap; gap: .2em 1em; list-style: none; margin: .4em 0 0; padding: 0; font-size: .8rem; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; background: currentColor; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); }
.c4 { color: var(--c4); } .c5 { color: var(--c5); } .c6 { color: var(--c6); } .c7 { color: var(--c7); }
"""


def page(title: str, sections: Sequence[str]) -> str:
    """The whole file."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A part of the page with its heading; empty where there is nothing in it."""
    body = "\n".join(part for part in parts if part)
    return f"<h2>{escape(title)}</h2>\n{body}" if body else ""


def charts(title: str, found: Sequence[str], text: str = "") -> str:
    """Charts side by side where there is room, with a sentence above."""
    shown = [chart for chart in found if chart]
    if not shown:
        return ""
    return f'<h3>{escape(title)}</h3>{paragraph(text)}<div class="charts">{"".join(shown)}</div>'


def paragraph(text: str) -> str:
    """A sentence or two in a softer tone."""
    return f'<p class="soft">{escape(text)}</p>' if text else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1) -> str:
    """Numbers to the right, the first columns to the left."""
    if not rows:
        return ""

    def cells(kind: str, values: Sequence[str]) -> str:
        numbers = ' class="n"'
        return "".join(
            f"<{kind}{'' if at < text_columns else numbers}>{escape(value)}</{kind}>" for at, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{cells("th", head)}</tr>{body}</table></div>'
