"""Summarize every plugin for `mtl plugins list`.

Listing imports no plugin into this process: the summary is read from the source, and a third-party plugin is imported in a
child process, which may crash, hang or exit.
"""

import ast
import faulthandler
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from mtlcli import registry
from mtlcli.registry.source import class_of, literals

SECONDS = 60.0
"""Time limit for the import of one third-party plugin."""


@dataclass(frozen=True)
class PluginSummary:
    """Hold one line of `mtl plugins list`.

    `status` is `ok`, or `error: ` and the problem in one line. The attributes after the summary are literals of the source:
    None if the family does not have the attribute, or if the source computes it. `paper` is the citation of the module; empty
    if it has none.
    """

    family: str
    name: str
    distribution: str
    version: str
    status: str
    summary: str
    native_scale: str | None = None
    needs: tuple[str, ...] | None = None
    tasks_per_step: str | None = None
    reads_rows: bool | None = None
    cost: str | None = None
    paper: str = ""


def list_plugins(families: Sequence[str]) -> list[PluginSummary]:
    """Return every plugin of these families, built-ins first, including those that cannot be imported."""
    entries = [entry for family in families for entry in registry.entries(family)]
    rivals = {
        entry: [
            rival for rival in entries if rival != entry and (rival.family, rival.name) == (entry.family, entry.name)
        ]
        for entry in entries
    }
    # A name that is claimed twice cannot be used, so it is not tried.
    foreign = [entry for entry in entries if not entry.is_built_in and not rivals[entry]]
    # Built-ins are not tried: importing all of them takes seconds, and the tests import each.
    status = dict(zip(foreign, _try_all(foreign), strict=True))
    for entry, claims in rivals.items():
        if claims:
            status[entry] = f"error: the name is also claimed by {' and '.join(claim.origin for claim in claims)}"
    return [_summary(entry, status.get(entry, "ok")) for entry in entries]


def _summary(entry: registry.Entry, status: str) -> PluginSummary:
    """Summarize the source of a plugin; attributes that it does not set are taken from the family's base."""
    source, base = class_of(entry.target), class_of(registry.FAMILIES[entry.family].base)
    if source is None or base is None:
        return PluginSummary(entry.family, entry.name, entry.distribution, entry.version, status, "")
    attributes = literals(base) | literals(source)
    scale, needs, tasks, cost = (attributes.get(name) for name in ("native_scale", "needs", "tasks_per_step", "cost"))
    rows = attributes.get("reads_rows")
    needed = needs if isinstance(needs, frozenset | set | tuple | list) else None
    return PluginSummary(
        entry.family, entry.name, entry.distribution, entry.version, status,
        first_sentence(ast.get_docstring(source.node) or ""),
        native_scale=scale if isinstance(scale, str) else None,
        needs=None if needed is None else tuple(sorted(map(str, needed))),
        tasks_per_step=tasks if isinstance(tasks, str) else None,
        reads_rows=rows if isinstance(rows, bool) else None,
        cost=" ".join(cost.split()) if isinstance(cost, str) else None,
        paper=_paper(ast.get_docstring(source.tree) or ""),
    )  # fmt: skip


def _paper(docstring: str) -> str:
    """Return `authors, venue year` of a module that begins `Name: authors, venue year.`; empty without a colon."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    return paragraph.partition(": ")[2].removesuffix(".")


def first_sentence(docstring: str) -> str:
    """Return the first sentence of a docstring on one line, without its full stop."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    # "et al." does not end a sentence.
    return re.split(r"(?<=[.!?])(?<!et al\.)\s+(?=[A-Z`(])", paragraph)[0].removesuffix(".")


def _try_all(entries: Sequence[registry.Entry]) -> list[str]:
    """Return the status of each plugin. If a plugin ends the child process, a new child continues with the next plugin."""
    status: list[str] = []
    while len(status) < len(entries):
        rest = entries[len(status) :]
        lines, death = _run_child(rest)
        # A child that ended early has fewer lines than plugins.
        status += [_status(entry, line) for entry, line in zip(rest, lines, strict=False)]
        if len(lines) < len(rest):
            status.append(_status(rest[len(lines)], death))
    return status


def _status(entry: registry.Entry, problem: str) -> str:
    return f"error: {problem} (reinstall or uninstall {entry.distribution})" if problem else "ok"


def _run_child(entries: Sequence[registry.Entry]) -> tuple[list[str], str]:
    """Try plugins in a child process.

    Returns:
        The problem of each plugin that was tried, empty for none, and what ended the child early.
    """
    # The child gets this process's path, so that it finds the same plugins.
    start = "import sys; sys.path[:] = sys.argv[1:]; from mtlcli.registry.listing import try_plugins; try_plugins()"
    request = json.dumps({"seconds": SECONDS, "plugins": [(entry.family, entry.target) for entry in entries]})
    # Not pipes, which a process started by a plugin could keep open after the child has ended.
    with tempfile.TemporaryFile() as answers, tempfile.TemporaryFile() as noise:
        child = subprocess.run(
            [sys.executable, "-c", start, *sys.path], input=request.encode(), stdout=answers, stderr=noise, check=False
        )
        answers.seek(0)
        lines = [json.loads(line) for line in answers.read().splitlines()]
        noise.seek(0)
        if b"Timeout (" in noise.read()[-10_000:]:
            return lines, f"its import takes longer than {SECONDS:g} s"
    return lines, f"its import ends the process with code {child.returncode}"


def try_plugins() -> None:
    """Run in the child: try the plugins listed on standard input, and write one JSON line for each to standard output."""
    request = json.load(sys.stdin)
    with os.fdopen(os.dup(1), "w") as answers, os.fdopen(os.dup(2), "w") as noise:
        os.dup2(2, 1)  # a plugin's own output must not mix with the answers
        for family, target in request["plugins"]:
            # Its timer is a C thread, which also ends an import that never releases the GIL.
            faulthandler.dump_traceback_later(request["seconds"], exit=True, file=noise)
            try:
                problem = _problem_of(family, target)
            except BaseException as error:  # SystemExit and KeyboardInterrupt too
                text = str(error).strip().splitlines()
                problem = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps(problem), file=answers, flush=True)
    os._exit(0)  # a plugin may have started threads that never end


def _problem_of(family: str, target: str) -> str:
    """Import a plugin and return why it cannot be used; empty if it can."""
    module, _, attribute = target.partition(":")
    plugin = importlib.import_module(module)
    for part in attribute.split("."):
        plugin = getattr(plugin, part)
    base = registry.base_of(family)
    if not (inspect.isclass(plugin) and issubclass(plugin, base)):
        return f"{target} is not a {base.__module__}.{base.__qualname__}"
    missing = sorted(getattr(plugin, "__abstractmethods__", ()))
    if missing:
        return f"{target} does not define {', '.join(missing)}"
    registry.options_model(plugin)
    return ""
