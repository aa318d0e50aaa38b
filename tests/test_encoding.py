"""Text files are read and written as UTF-8, whatever the locale is."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtlcli.config.layers import dump
from small import small_values, write_files

ROOT = Path(__file__).parent.parent


def sources() -> list[Path]:
    return [path for name in ("mtlcli", "benchmarks", "plugins", "examples") for path in (ROOT / name).rglob("*.py")]


def opens_text(call: ast.Call) -> bool:
    """Whether a call opens, reads or writes a text file."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("read_text", "write_text"):
        return True
    if name != "open" or (
        isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") in ("os", "gzip")
    ):
        return False
    modes = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    return not any(
        isinstance(mode, ast.Constant) and isinstance(mode.value, str) and "b" in mode.value for mode in modes
    )


def test_every_text_file_is_opened_with_its_encoding():
    lacking = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources()
        if "tests" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and opens_text(node) and not any(word.arg == "encoding" for word in node.keywords)
    ]
    assert lacking == []


@pytest.mark.slow
def test_names_and_labels_beyond_ascii_where_python_is_not_in_utf8_mode(tmp_path):
    values = small_values(write_files(tmp_path / "daten-é"))
    for split in ("train", "dev"):
        path = tmp_path / "daten-é" / f"tone-{split}.tsv"
        path.write_text(path.read_text().replace("\tgood\n", "\tschön\n"), encoding="utf-8")
    values["tasks"] = {"größe": values["tasks"]["tone"]}
    values["training"] |= {"steps": 2, "steps_per_epoch": 2}
    (tmp_path / "recipe.yaml").write_text(dump(values), encoding="utf-8")
    environment = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    for arguments in (
        ("train", "-c", "recipe.yaml", "-o", "läufe/é", "-q"),
        ("train", "--resume", "-o", "läufe/é"),
        ("report", "läufe/é", "--points", "0"),
    ):
        command = [sys.executable, "-m", "mtlcli", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
    predictions = tmp_path / "läufe" / "é" / "predictions" / "größe.dev.jsonl"
    assert "schön" in predictions.read_text(encoding="utf-8")
    assert "größe" in (tmp_path / "report.html").read_text(encoding="utf-8")
