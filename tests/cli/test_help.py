"""The help that people read first: quick, complete, and with an example that runs."""

import re
import shlex
import subprocess
import sys

import pytest

COMMANDS = (
    "train",
    "check",
    "eval",
    "predict",
    "compare",
    "table",
    "ensemble",
    "study",
    "track",
    "plugins list",
    "plugins show",
    "plugins new",
)


def example_of(text: str) -> str:
    """The command behind `Example:`, lines joined again."""
    found = re.search(r"Example: (.+?)\n\n", text, re.DOTALL)
    assert found, "no example"
    return " ".join(found[1].split())


def test_help_imports_neither_torch_nor_transformers():
    script = "import sys; sys.argv = ['mtl', '--help']; from mtlcli.cli import main\n"
    script += "try: main()\nexcept SystemExit: pass\n"
    script += "print([name for name in ('torch', 'transformers', 'numpy', 'pydantic') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example_of_itself(command, mtl):
    code, out, err = mtl(*command.split(), "--help")
    assert code == 0 and err == ""
    assert f"mtl {command}" in example_of(out)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_line_of_help_is_wider_than_80_columns(command, mtl):
    assert max(map(len, mtl(*command.split(), "--help").out.splitlines())) <= 80


def test_the_example_of_predict_runs(mtl, run):
    example = example_of(mtl("predict", "--help").out)
    text, command = example.split(" | ")
    assert shlex.split(text)[0] == "echo"
    arguments = ["tone" if word == "sst" else run if word == "runs/demo" else word for word in shlex.split(command)]
    code, out, _ = mtl(*arguments[1:], stdin=shlex.split(text)[1].encode() + b"\n")
    assert code == 0
    assert out.startswith('{"tone": {"label": ')


def test_the_example_of_eval_runs(mtl, run):
    words = shlex.split(example_of(mtl("eval", "--help").out))
    assert mtl(*[run if word == "runs/demo" else word for word in words[1:]]).code == 0


def test_mtl_alone_prints_help_and_fails(mtl):
    code, out, _ = mtl()
    assert code == 2
    assert "Commands:" in out


def test_the_version_is_printed(mtl):
    from mtlcli import __version__

    assert mtl("--version") == (0, f"mtl {__version__}\n", "")


def test_a_mistyped_flag_is_one_line_and_points_to_the_help(mtl, run):
    code, out, err = mtl("eval", run, "--jsonn")
    assert code == 2 and out == ""
    assert err.splitlines()[0].startswith("error: No such option: --jsonn")
    assert err.splitlines()[-1] == "see: mtl eval --help"


def test_a_bug_keeps_its_traceback(mtl, run, monkeypatch):
    monkeypatch.setattr("mtlcli.evaluation.evaluate.evaluate", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        mtl("eval", run)


def test_debug_keeps_the_traceback_of_a_users_error(mtl, tmp_path):
    from mtlcli.errors import MtlError

    with pytest.raises(MtlError, match="no such run folder"):
        mtl("eval", tmp_path / "none", "--debug")
