"""What commands print about evaluation sets and groups: names, means and counts, in 80 columns."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from small import WORDS, small_values


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe in the current folder, with one task that has two dev sets and groups."""
    monkeypatch.chdir(tmp_path)
    lines = [
        f"{WORDS[row % 7]} {WORDS[row % 11]} {row}\t{('good', 'bad')[row % 2]}\t{('de', 'fr')[row % 3 % 2]}\td{row // 4}\n"
        for row in range(60)
    ]
    for name in ("train", "dev"):
        Path(f"{name}.tsv").write_text("sentence\tlabel\tlanguage\tdocument\n" + "".join(lines))
    sets = {
        "german": {"file": "dev.tsv", "where": {"language": "de"}},
        "french": {"file": "dev.tsv", "where": {"language": "fr"}},
    }
    task = {"kind": "classification", "train": "train.tsv", "dev": sets, "group": "document"}
    values = small_values(tmp_path) | {"tasks": {"tone": task}}
    Path("recipe.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return tmp_path / "recipe.yaml"


def test_sets_are_named_in_every_output(mtl, recipe):
    ended = mtl("train", "-c", recipe, "-o", "runs/a")
    assert ended.code == 0
    assert "note: tone dev german: 20 rows of " in ended.out and 'kept where language is "de"' in ended.out
    assert " (german 0." in ended.err and ", french 0." in ended.err
    results = ended.out[ended.out.index("task  split") :].splitlines()
    assert [line[:17].split() for line in results[1:7]] == [
        ["tone", "dev", "german"],
        [],
        ["tone", "dev", "french"],
        [],
        ["tone", "dev", "mean"],
        [],
    ]
    assert results[0].split()[-2:] == ["n", "groups"]
    assert [results[line].split()[-2:] for line in (1, 3, 5)] == [["40", "15"], ["20", "15"], ["60", "15"]]
    assert max(map(len, results[:7])) <= 80

    code, out, _ = mtl("eval", "runs/a", "--split", "dev.german", "--resamples", 20)
    assert code == 0 and [line.split()[:3] for line in out.splitlines()[2:3]] == [["tone", "dev", "german"]]
    shutil.copytree("runs/a", "runs/b")
    code, out, _ = mtl("compare", "runs/a", "runs/b", "--resamples", 100)
    assert "tone german: no evidence of a difference between A and B" in out
    assert "Groups of rows are resampled as a whole: tone german 15 groups, tone french 15 groups." in out
    compared = json.loads(mtl("compare", "runs/a", "runs/b", "--resamples", 100, "--json").out)["compared"]
    assert [(row["task"], row["split"], row["groups"]) for row in compared] == [
        ("tone", "dev.german", 15),
        ("tone", "dev.french", 15),
    ]
    head = mtl("table", "runs/a", "runs/b", "--sets", "--format", "csv").out.splitlines()[0]
    assert head == "run,tone german accuracy,tone french accuracy,tone accuracy"


def test_a_set_that_alone_selects_the_checkpoint_is_printed_once(mtl, recipe):
    ended = mtl("train", "-c", recipe, "-o", "runs/a", "--set", "tasks.tone.select_dev=french", "-q")
    splits = [line[6:17].strip() for line in ended.out.splitlines() if line.startswith("tone")]
    assert splits == ["dev german", "dev french"]
    ended = mtl("train", "-c", recipe, "-o", "runs/g", "--set", "tasks.tone.select_dev=french", "-q", "--seeds", "1,2")
    assert [line[6:17].strip() for line in ended.out.splitlines() if line.startswith("tone")] == splits


def test_the_plan_marks_auxiliary_tasks(mtl, recipe):
    ended = mtl("check", "-c", recipe, "--task", "tone", "--task", "sst", "--auxiliary", "sst", "--sample")
    assert ended.code == 0
    lines = ended.out.splitlines()
    plan = next(index for index, line in enumerate(lines) if line.startswith("sst "))
    assert lines[plan].split()[:5] == ["sst", "single,", "linear,", "3000", "-"]
    assert lines[plan + 1].split() == ["auxiliary"]
