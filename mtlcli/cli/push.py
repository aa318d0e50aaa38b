"""`mtl push`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mtlcli.cli import options
from mtlcli.cli.console import err, say, size
from mtlcli.errors import MtlError


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="The repository: NAME or OWNER/NAME.")],
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Who sees a new repository. [default: as the account's settings say]"),
    ] = None,
    branch: Annotated[
        str | None, typer.Option(metavar="NAME", help="Branch to write, made if there is none. [default: main]")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Send without asking.")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Send a run to the Hugging Face Hub: model, model card and exports in it, as one commit.

    Checkpoints, predictions, logs and data stay here, and so do the folders of files. Everything that is sent is listed first, and
    nothing leaves this machine before you agree. HF_ENDPOINT names another server.

    Example: mtl push runs/demo me/demo --private
    """
    from mtlcli.export.push import endpoint, prepare_push, send

    prepared = prepare_push(run, repo)
    for note in prepared.notes:
        say(f"note: {note}", err)
    if not prepared.licensed and private is None:
        raise MtlError(
            f"{run}: the license in README.md is not filled in; fill it in (license, or license_name beside other), or choose --private "
            "or --public"
        )
    sizes = prepared.sizes()
    # Also with --quiet if the question follows, because it is about this list.
    if not quiet or not yes:
        for name, count in sizes.items():
            say(f"{size(count):>8}  {name}", err)
        say(f"{len(sizes)} files, {size(sum(sizes.values()))}, to {repo} on {endpoint()}", err)
    if not yes:
        if not sys.stdin.isatty():
            raise MtlError("nothing was sent: add --yes to send these files")
        typer.confirm("Send these files?", abort=True, err=True)
    address = send(prepared, private=private, branch=branch)
    if not quiet:
        say(address)
