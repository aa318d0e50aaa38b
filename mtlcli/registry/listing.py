"""What plugins there are, for `mtl plugins list`.

Listing imports no plugin into this process: what a plugin does is read from its source, and whether a third party's one
works is tried in a child process, which may crash, hang or leave as it likes.
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
"""How long the import of one third-party plugin may take."""


@dataclass(frozen=True)
class PluginSummary:
    """One line of `mtl plugins list`. `status` is `ok`, or `error: ` and what is wrong in one line.

    What follows the summary is what the source says outright: None where a family has no such attribute, or the source
    computes it. `paper` is where the method comes from, empty where the module does not say.
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
    """Every plugin of these families, built-ins first. A broken one is a line among the others."""
    found = [entry for family in families for entry in registry.entries(family)]
    rivals = {
        entry: [other for other in found if other != entry and (other.family, other.name) == (entry.family, entry.name)]
        for entry in found
    }
    foreign = [entry for entry in found if entry.distribution != "mtlcli" and not rivals[entry]]
    status = dict(zip(foreign, _try_all(foreign), strict=True))
    for entry, others in rivals.items():
        if others:
            who = " and ".join(f"{other.distribution} {other.version}" for other in others)
            status[entry] = f"error: the name is also claimed by {who}"
    return [_surveyed(entry, status.get(entry, "ok")) for entry in found]


def _surveyed(entry: registry.Entry, status: str) -> PluginSummary:
    """What the source of a plugin says; an attribute of the family's base holds where the plugin says nothing of it."""
    found, base = class_of(entry.target), class_of(registry.FAMILIES[entry.family].base)
    if found is None or base is None:
        return PluginSummary(entry.family, entry.name, entry.distribution, entry.version, status, "")
    known = literals(base) | literals(found)
    scale, needs, tasks, cost = (known.get(name) for name in ("native_scale", "needs", "tasks_per_step", "cost"))
    rows = known.get("reads_rows")
    listed = needs if isinstance(needs, frozenset | set | tuple | list) else None
    return PluginSummary(
        entry.family, entry.name, entry.distribution, entry.version, status,
        first_sentence(ast.get_docstring(found.node) or ""),
        native_scale=scale if isinstance(scale, str) else None,
        needs=None if listed is None else tuple(sorted(map(str, listed))),
        tasks_per_step=tasks if isinstance(tasks, str) else None,
        reads_rows=rows if isinstance(rows, bool) else None,
        cost=" ".join(cost.split()) if isinstance(cost, str) else None,
        paper=_paper(ast.get_docstring(found.tree) or ""),
    )  # fmt: skip


def _paper(docstring: str) -> str:
    """`Name: authors, venue year.` of a module -> `authors, venue year`; empty where the first paragraph names nothing."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    return paragraph.partition(": ")[2].removesuffix(".")


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring on one line, without its full stop."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])(?<!et al\.)\s+(?=[A-Z`(])", paragraph)[0].removesuffix(".")


def _try_all(entries: Sequence[registry.Entry]) -> list[str]:
    """The status of each plugin. A child tries them in turn; where one ends it, another child goes on behind that one."""
    status: list[str] = []
    while len(status) < len(entries):
        rest = entries[len(status) :]
        lines, death = _run_child(rest)
        status += [_status(entry, line) for entry, line in zip(rest, lines, strict=False)]
        if len(lines) < len(rest):
            status.append(_status(rest[len(lines)], death))
    return status


def _status(entry: registry.Entry, problem: str) -> str:
    return f"error: {problem} (reinstall or uninstall {entry.distribution})" if problem else "ok"


def _run_child(entries: Sequence[registry.Entry]) -> tuple[list[str], str]:
    """What is wrong with each plugin that the child got to, empty where nothing is, and what ended the child before its time."""
    start = "import sys; sys.path[:] = sys.argv[1:]; from mtlcli.registry.listing import try_plugins; try_plugins()"
    request = json.dumps({"seconds": SECONDS, "plugins": [(entry.family, entry.target) for entry in entries]})
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
    """The child: tries the plugins that standard input names, one JSON line on standard output for each as it is done."""
    request = json.load(sys.stdin)
    with os.fdopen(os.dup(1), "w") as answers, os.fdopen(os.dup(2), "w") as noise:
        os.dup2(2, 1)  # what a plugin prints is not an answer
        for family, target in request["plugins"]:
            faulthandler.dump_traceback_later(request["seconds"], exit=True, file=noise)
            try:
                problem = _problem_of(family, target)
            except BaseException as error:
                text = str(error).strip().splitlines()
                problem = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps(problem), file=answers, flush=True)
    os._exit(0)  # whatever threads a plugin has started


def _problem_of(family: str, target: str) -> str:
    """Imports a plugin -> why it is none of the family, empty where it is."""
    module, _, attribute = target.partition(":")
    found = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    base = registry.base_of(family)
    if not (inspect.isclass(found) and issubclass(found, base)):
        return f"{target} is not a {base.__module__}.{base.__qualname__}"
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        return f"{target} does not define {', '.join(missing)}"
    registry.options_model(found)
    return ""
