"""`mtl report`: one page about one run or several."""

from pathlib import Path
from typing import Annotated

import typer

from mtlcli.cli import options
from mtlcli.cli.console import err, say
from mtlcli.errors import MtlError


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders; the first is shown first.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
    points: Annotated[
        int, typer.Option(min=0, help="Rows per task in the pictures of encodings; 0 leaves them out.")
    ] = 300,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "",
    debug: options.Debug = False,
) -> None:
    """Write one HTML page about runs: plan, metrics, losses, balance, confusion and encodings before and after.

    Example: mtl report runs/demo --output demo.html
    """
    from mtlcli.files import write_whole
    from mtlcli.report import page, sections
    from mtlcli.report.embeddings import Cloud, clouds
    from mtlcli.runs.record import read_record, unfinished_note

    if output.is_dir():
        raise MtlError(f"--output: {output} is a folder; expected the name of a page, such as {output}/report.html")
    if not output.parent.is_dir():
        raise MtlError(f"--output: there is no folder {output.parent}")
    for folder in runs:
        if (note := unfinished_note(folder, read_record(folder))) is not None:
            say(f"note: {note}", err)
    parts = [sections.overview(runs)]
    for folder in runs:
        found: list[Cloud] = []
        note = ""
        if points:
            say(f"{folder}: drawing encodings, which takes seconds; --points 0 leaves them out", err)
            try:
                found, note = clouds(folder, points)
            except MtlError as error:
                say(f"note: {folder}: no pictures of encodings: {'; '.join(error.lines)}", err)
        parts.append(sections.one_run(folder, found, note))
    text = page.page(title or f"mtl report: {', '.join(folder.name for folder in runs)}", parts)
    try:
        write_whole(output.resolve(), text)
    except MtlError as error:
        raise MtlError(f"--output: {error}") from error
    say(f"wrote {output} ({len(text) / 1e3:.0f} kB)")
