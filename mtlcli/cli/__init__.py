"""The command line: each command parses, calls the library and prints. Torch is imported only when a command runs."""

import os
import re
import sys
import time

import typer

from mtlcli.cli import (
    affinity,
    card,
    check,
    compare,
    ensemble,
    evaluate,
    export,
    merge,
    plugins,
    predict,
    push,
    report,
    schema,
    study,
    sweep,
    table,
    track,
    train,
)
from mtlcli.distributed.launch import SWITCH
from mtlcli.distributed.world import ProcessLost, is_connected, world
from mtlcli.errors import MtlError, one_of
from mtlcli.trackers.queue import any_hangs

SPINS = "1000"
"""How long torch's threads spin at a barrier before they sleep; read when torch is imported. Next to another busy process on two
cores, a step of `tiny` takes 127 ms with libgomp's default and 42 ms with this; alone it takes 24 ms with both."""

TOGETHER = ("train", "eval", "predict")
"""Commands that several processes can run together."""

# Control characters, line separators and bidirectional marks.
CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
SUMMARY = "Fine-tune one text encoder on several tasks, evaluate it, and use it for prediction."

# click.ClickException: depending on its version, typer depends on click or contains a copy, so it cannot be imported by name.
UsageMistake: type[BaseException] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="mtl",
    help=f"{SUMMARY}\n\n"
    "Example: mtl train --task sst --task quora --task sts --balancer pcgrad --sample --output runs/demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    # `main` prints the errors of users; a bug keeps Python's own traceback.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("check")(check.check)
app.command("eval")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("study")(study.study)
app.command("sweep")(sweep.sweep)
app.command("affinity")(affinity.affinity)
app.command("compare")(compare.compare)
app.command("table")(table.table)
app.command("ensemble")(ensemble.ensemble)
app.command("merge")(merge.merge)
app.command("export")(export.export)
app.command("card")(card.card)
app.command("push")(push.push)
app.command("report")(report.report)
app.command("track")(track.track)
app.command("schema")(schema.schema)
app.add_typer(plugins.app, name="plugins")


@app.callback(invoke_without_command=True, help=SUMMARY)
def version(show: bool = typer.Option(False, "--version", help="Print the version and exit")) -> None:
    """Print the version if asked."""
    if show:
        from mtlcli import __version__

        print(f"mtl {__version__}")
        raise typer.Exit


def main() -> None:
    """Run a command. An error that the user can fix is printed as `error: ...` without a traceback, with exit code 2."""
    if sys.getfilesystemencoding().lower() not in ("utf-8", "utf8"):
        # Python takes file names for ASCII, and the libraries under it refuse what it then makes of other letters.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", "-m", "mtlcli", *sys.argv[1:]])
    # Before torch is imported. A value that the user has set stays.
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    try:
        _refuse_processes(sys.argv[1:])
        if not world().is_alone:
            # Where another process ends, PyTorch would log a stack of its own code above our line.
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        # Otherwise click would print errors in its own form and end the process. It returns the code of `typer.Exit`,
        # and None for a command that ends normally.
        code = app(standalone_mode=False, prog_name="mtl")
        sys.stdout.flush()  # a full disk shows here, not when Python ends
        world().leave()
        _leave_at_once(code, seconds=0.0)
    except typer.Abort:
        # A question of `typer.confirm` was answered with no, or interrupted.
        code = 130
    except UsageMistake as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "mtl"
        message = error.format_message()  # type: ignore[attr-defined]
        if context is not None and message in ("", context.get_help()):  # `mtl` without a command
            print(context.get_help())
        else:
            print(f"error: {message}\nsee: {path} --help", file=sys.stderr)
        code = 2
    except ProcessLost as error:
        # Without cleanup: it would wait for the process that is gone.
        print(f"error: {printable(error.lines[0])}", file=sys.stderr)
        code = 1
        _leave_at_once(code)
    except MtlError as error:
        if "--debug" in sys.argv:
            raise
        _report(error)
        code = 2
        _leave_at_once(code)
    except BrokenPipeError:
        _discard_standard_output()
        # The exit code of a process that SIGPIPE ended, as a shell reports it: 128 + 13.
        code = 141
    except OSError:
        failure = _standard_output_failure()
        if failure is None or "--debug" in sys.argv:
            raise
        _discard_standard_output()
        print(f"error: standard output cannot be written: {failure.strerror}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        if "--debug" in sys.argv:
            raise
        print("interrupted", file=sys.stderr)
        code = 130
    except SystemExit as end:  # raised by typer and rich for a broken pipe: the reader of our output has closed it
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        _discard_standard_output()
        code = 141
    code = code if isinstance(code, int) else 0
    if any_hangs():
        # A library in which a thread hangs may wait for it when Python ends.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _report(error: MtlError) -> None:
    """Print the lines of an error, once where several processes have met it."""
    if is_connected():
        reports = world().first_to_report(str(error))
    else:
        # Before they are connected, the first process of a machine speaks for it.
        try:
            reports = world().launch.local_rank == 0
        except MtlError:
            reports = True
    if reports:
        for line in error.lines:
            print(f"error: {printable(line)}", file=sys.stderr)


def _leave_at_once(code: object, seconds: float = 0.5) -> None:
    """End this process where it is connected to others, without a cleanup that would wait for them or end while they disconnect.

    Args:
        code: exit code, 0 where it is no number.
        seconds: time in which the others may still ask the first process whether to report the same error.
    """
    if is_connected():
        time.sleep(seconds)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)


def _refuse_processes(arguments: list[str]) -> None:
    """Raise MtlError for a command that several processes cannot run together."""
    # The options before the command, such as --version, take no values, so this word is the command.
    command = next((word for word in arguments if not word.startswith("-")), "")
    if command and not world().is_alone and command not in TOGETHER:
        raise MtlError(
            f"mtl {command}: runs in one process, and {world().size} were started; use torchrun for {one_of(TOGETHER)}, or set "
            f"{SWITCH}=off"
        )


def printable(text: str) -> str:
    """Return one line with control characters escaped: a file's name or content must not steer the terminal."""
    return CONTROLS.sub(lambda mark: mark[0].encode("unicode_escape").decode(), text)


def _standard_output_failure() -> OSError | None:
    """Return the error of standard output, None where it can be written: then another file raised the error.

    The error itself does not say which file it is about, so one more line end is written.
    """
    try:
        print(flush=True)
    except OSError as error:
        return error
    return None


def _discard_standard_output() -> None:
    """Send the rest of the buffer nowhere, so that Python does not fail on it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
