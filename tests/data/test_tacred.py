"""Rows of TACRED are those of the kind `relation`; a bad first row does not make a file of JSON an empty one."""

import json

import pytest

from mtlcli.data.readers import FileSource
from mtlcli.data.records import BadRecord
from mtlcli.data.tacred import with_spans
from mtlcli.data.task_sources import is_empty
from mtlcli.errors import MtlError
from mtlcli.training.setup import set_up
from small import small_config, write_files

ROW = {
    "id": "e1", "relation": "employer", "token": ["Ada", "Bell", "works", "for", "Northwind"], "subj_start": 0, "subj_end": 1,
    "obj_start": 4, "obj_end": 4, "subj_type": "PERSON",
}  # fmt: skip


def test_the_last_word_of_a_span_is_part_of_it_and_the_subject_is_the_head():
    row = with_spans(dict(ROW))
    assert (row["tokens"], row["head"], row["tail"]) == (ROW["token"], [0, 2], [4, 5])
    assert with_spans(row | {"subj_start": "1"})["head"] == [1, 2]


def test_other_rows_stay_as_they_are():
    plain = {"token": ["a"], "subj_start": 0, "relation": "x"}
    assert with_spans(plain) is plain


def test_a_position_must_be_a_whole_number():
    with pytest.raises(BadRecord, match='"obj_end" is no position of a word'):
        with_spans({**ROW, "obj_end": "last"})


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_a_task_of_relations_reads_such_a_file(tmp_path, ending):
    rows = [ROW, {**ROW, "relation": "no_relation", "token": ["Tom", "Ray", "sued", "the", "Acme"]}] * 5
    text = json.dumps(rows) if ending == "json" else "\n".join(map(json.dumps, rows))
    (tmp_path / f"train.{ending}").write_text(text)
    tasks = {"rel": {"kind": "relation", "train": str(tmp_path / f"train.{ending}"), "negative": "no_relation"}}
    config = small_config(write_files(tmp_path / "files"), tasks=tasks)
    config = config.model_copy(update={"tasks": {"rel": config.tasks["rel"]}})
    (task,) = set_up(config).tasks
    assert len(task.splits["train"]) == 10
    assert sorted(task.target.labels) == ["employer", "no_relation"]


def test_the_columns_of_a_file_are_those_of_its_first_good_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('nonsense\n{"text": "a", "label": "b"}\n')
    source = FileSource(path)
    assert source.columns == ("text", "label")
    with pytest.raises(MtlError, match=r"a.jsonl:1: not JSON"):
        list(source)


@pytest.mark.parametrize(("name", "text"), [("a.jsonl", "nonsense\n[]\n"), ("a.json", "[3, 4]")])
def test_a_file_without_any_good_row_is_not_called_empty(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(MtlError, match=rf"{name}:1: (not JSON|expected one JSON object)"):
        is_empty(FileSource(tmp_path / name))
