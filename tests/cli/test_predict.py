"""`mtl predict` as people use it: files, pipes, terminals, and everything that can be wrong with them."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import preloaded
from sealed import edit
from trained import copy_of

LINES = b"the fine lamp\nthe poor stool pie\nthe awful ferry\n"
PAIRS = b"the fine lamp\tthe poor lamp\nthe pie\tthe pie\n"


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


# What comes out


def test_one_line_out_for_every_line_in_with_names_and_probabilities(mtl, run):
    code, out, _ = mtl("predict", run, "--task", "tone", stdin=LINES)
    assert code == 0
    assert len(rows(out)) == 3
    for row in rows(out):
        chances = row["tone"]["probabilities"]
        assert list(chances) == ["bad", "good"]
        assert sum(chances.values()) == pytest.approx(1, abs=2e-6)
        assert row["tone"]["label"] == max(chances, key=chances.get)


def test_a_score_has_no_probabilities(mtl, run):
    (row,) = rows(mtl("predict", run, "-t", "stars", stdin=b"the pie\n").out)
    assert list(row["stars"]) == ["score"]


def test_several_tasks_share_a_line(mtl, run):
    found = rows(mtl("predict", run, "-t", "stars", "-t", "tone", stdin=LINES).out)
    assert [list(row) for row in found] == [["tone", "stars"]] * 3


def test_without_a_task_plain_lines_go_to_the_tasks_of_one_text_and_tabbed_ones_to_those_of_pairs(mtl, run):
    assert [list(row) for row in rows(mtl("predict", run, stdin=LINES).out)] == [["tone", "stars"]] * 3
    assert [list(row) for row in rows(mtl("predict", run, stdin=PAIRS).out)] == [["same", "near"]] * 2


def test_blank_lines_and_windows_line_ends_are_rows_like_any_other(mtl, run):
    found = rows(mtl("predict", run, "-t", "tone", stdin=b"the fine lamp\r\n\r\nthe pie\n\nthe fine lamp").out)
    assert len(found) == 5
    assert found[0] == found[4]
    assert found[1] == found[3]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_a_table_gives_the_same_as_its_lines_and_its_labels_are_not_needed(mtl, run, tmp_path, kind):
    texts = LINES.decode().splitlines()
    file = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps({"sentence": text, "id": n}) + "\n" for n, text in enumerate(texts)))
    else:
        mark = "," if kind == "csv" else "\t"
        file.write_text("".join(f"{a}{mark}{b}\n" for a, b in [("id", "sentence"), *enumerate(texts)]))
    found = rows(mtl("predict", run, file, "-t", "tone").out)
    assert [row.pop("id") for row in found] == ([0, 1, 2] if kind == "jsonl" else ["0", "1", "2"])
    assert [row.pop("sentence") for row in found] == texts
    assert found == rows(mtl("predict", run, "-t", "tone", stdin=LINES).out)


def test_a_label_that_is_there_is_ignored_even_if_it_is_nonsense(mtl, run, tmp_path):
    (tmp_path / "rows.tsv").write_text("label\tsentence\nnonsense\tthe pie\n\tthe pie\n")
    code, out, _ = mtl("predict", run, tmp_path / "rows.tsv", "-t", "tone", "--columns", "none")
    assert code == 0
    assert rows(out)[0] == rows(out)[1]


def test_a_file_with_an_index_that_has_no_name_is_read_by_its_columns(mtl, run, tmp_path):
    (tmp_path / "double.csv").write_text('\t\tid\tsentence\n0\t0.0\ta1\t"the ""fine"" lamp"\n1\t1.0\ta2\tthe pie\n')
    found = rows(mtl("predict", run, tmp_path / "double.csv").out)
    assert [row["id"] for row in found] == ["a1", "a2"]


def test_columns_are_found_by_number_where_there_is_no_header(mtl, run, tmp_path):
    (tmp_path / "rows.tsv").write_text("7\tthe fine lamp\n8\tthe pie\n")
    found = rows(mtl("predict", run, tmp_path / "rows.tsv", "--no-header", "--text", "1", "--columns", "none").out)
    assert found == rows(mtl("predict", run, stdin=b"the fine lamp\nthe pie\n").out)


def test_a_run_that_was_trained_without_headers_takes_no_row_for_one(mtl, run, tmp_path):
    copy = copy_of(run, tmp_path)

    def drop_header(record):
        record["tasks"]["tone"] |= {"text": ["1"]}
        record["tasks"]["tone"]["config"]["header"] = False

    edit(copy / "run.json", drop_header)
    (tmp_path / "rows.tsv").write_text("7\tthe fine lamp\n8\tthe pie\n")
    assert len(rows(mtl("predict", copy, tmp_path / "rows.tsv", "-t", "tone").out)) == 2
    assert len(rows(mtl("predict", copy, tmp_path / "rows.tsv", "-t", "tone", "--header").out)) == 1


def test_two_columns_by_name_are_a_pair(mtl, run, tmp_path):
    (tmp_path / "rows.csv").write_text("one,other\nthe fine lamp,the poor lamp\nthe pie,the pie\n")
    found = rows(mtl("predict", run, tmp_path / "rows.csv", "--text", "one,other", "--columns", "none").out)
    assert found == rows(mtl("predict", run, stdin=PAIRS).out)


def test_json_rows_may_hold_lists_and_more_keys_than_the_first_one(mtl, run, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"sentence": "the pie", "words": ["a"]}\n{"sentence": "the pie", "id": 3}\n')
    for kind in ("jsonl", "csv"):
        code, out, _ = mtl("predict", run, tmp_path / "rows.jsonl", "--format", kind)
        assert code == 0
        assert len(out.splitlines()) == 2 + (kind == "csv")


@pytest.mark.parametrize(("kind", "mark"), [("csv", ","), ("tsv", "\t")])
def test_tables_out_have_a_column_per_label(mtl, run, kind, mark):
    out = mtl("predict", run, "--format", kind, "-q", stdin=LINES).out
    found = list(csv.DictReader(io.StringIO(out), delimiter=mark))
    assert len(found) == 3
    assert list(found[0]) == ["tone.label", "tone.probability.bad", "tone.probability.good", "stars.score"]


def test_a_tsv_cell_never_breaks_its_row(mtl, run):
    stdin = b'{"id": "a\\tb\\n\\"c\\"", "sentence": "the pie"}\n'
    out = mtl("predict", run, "--input-format", "jsonl", "-t", "tone", "--format", "tsv", stdin=stdin).out
    assert out.splitlines()[1].split("\t")[0] == 'a b "c"'


def test_a_header_alone_gives_a_header_alone(mtl, run, tmp_path):
    (tmp_path / "rows.tsv").write_text("id\tsentence\n")
    assert mtl("predict", run, tmp_path / "rows.tsv", "--format", "csv", "-t", "stars").out == (
        "id,sentence,stars.score\n"
    )
    assert mtl("predict", run, tmp_path / "rows.tsv", "-t", "stars").out == ""


def test_no_lines_give_no_lines(mtl, run):
    assert mtl("predict", run, "-t", "tone", "-q", stdin=b"") == (0, "", "")


def test_quiet_prints_nothing_but_predictions(mtl, run):
    assert mtl("predict", run, "-q", stdin=LINES).err == ""
    assert "step 6" in mtl("predict", run, stdin=LINES).err  # which model this is


# The input's columns


QUOTED = 'id,note,sentence\n7,"two\nlines, quoted",the pie\n8,"say ""hi""",the fine lamp\n'


def test_the_columns_of_a_csv_stand_beside_the_predictions_whatever_its_quotes_hold(mtl, run, tmp_path):
    (tmp_path / "rows.csv").write_text(QUOTED)
    out = mtl("predict", run, tmp_path / "rows.csv", "-t", "tone", "--format", "csv").out
    found = list(csv.DictReader(io.StringIO(out)))
    assert [(row["id"], row["note"], row["sentence"]) for row in found] == [
        ("7", "two\nlines, quoted", "the pie"),
        ("8", 'say "hi"', "the fine lamp"),
    ]
    assert list(found[0])[3:] == ["tone.label", "tone.probability.bad", "tone.probability.good"]
    chances = rows(mtl("predict", run, "-t", "tone", stdin=b"the pie\nthe fine lamp\n").out)
    assert [row["tone.label"] for row in found] == [row["tone"]["label"] for row in chances]


def test_json_values_come_back_as_they_came_in(mtl, run, tmp_path):
    line = '{"id": 7, "x": null, "big": 12345678901234567890123, "r": 0.50, "ok": true, "words": ["é"], "sentence": "the pie"'
    (tmp_path / "rows.jsonl").write_text(line + "}\n")
    assert mtl("predict", run, tmp_path / "rows.jsonl", "-t", "stars").out.startswith(line + ', "stars": {"score": ')
    (tmp_path / "rows.json").write_text("[" + line + "}]")
    assert mtl("predict", run, tmp_path / "rows.json", "-t", "stars").out.startswith(line + ', "stars": {"score": ')
    header, cells = csv.reader(
        mtl("predict", run, tmp_path / "rows.jsonl", "-t", "stars", "--format", "csv").out.splitlines()
    )
    assert header == ["id", "x", "big", "r", "ok", "words", "sentence", "stars.score"]
    assert cells[:7] == ["7", "", "12345678901234567890123", "0.50", "true", '["é"]', "the pie"]


def test_a_key_of_a_later_object_has_its_column_too(mtl, run, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"sentence": "the pie"}\n{"sentence": "the pie", "id": 3}\n')
    out = mtl("predict", run, tmp_path / "rows.jsonl", "-t", "stars", "--format", "csv").out
    assert [line.split(",")[:2] for line in out.splitlines()] == [["sentence", "id"], ["the pie", ""], ["the pie", "3"]]
    stdin = (tmp_path / "rows.jsonl").read_bytes()
    code, out, err = mtl("predict", run, "--input-format", "jsonl", "-t", "stars", "--format", "csv", stdin=stdin)
    assert (code, len(out.splitlines())) == (2, 2)
    assert 'error: <stdin>:2: the key "id" is not in the first row' in err
    assert mtl("predict", run, "--input-format", "jsonl", "-t", "stars", stdin=stdin).code == 0


def test_columns_are_chosen_by_name_or_number_and_none_is_none(mtl, run, tmp_path):
    (tmp_path / "rows.csv").write_text(QUOTED)

    def header(choice: str) -> str:
        return mtl(
            "predict", run, tmp_path / "rows.csv", "-t", "stars", "--format", "csv", "--columns", choice
        ).out.split("\n")[0]

    assert header("none") == "stars.score"
    assert header("note,0") == "note,id,stars.score"
    assert header("keep") == "id,note,sentence,stars.score"
    assert last_error(mtl("predict", run, tmp_path / "rows.csv", "-t", "stars", "--columns", "idd")) == (
        f'error: --columns: {tmp_path}/rows.csv has no column "idd"; did you mean "id"?'
    )
    assert rows(mtl("predict", run, "-t", "tone", "--columns", "keep", stdin=LINES).out)[0]["text"] == "the fine lamp"


@pytest.mark.parametrize(("kind", "name"), [("csv", "stars.score"), ("jsonl", "stars")])
def test_predictions_never_take_the_name_of_a_column_of_the_input(mtl, run, tmp_path, kind, name):
    (tmp_path / "rows.csv").write_text(f"sentence,{name},predicted.{name}\nthe pie,mine,mine too\n")
    _, out, err = mtl("predict", run, tmp_path / "rows.csv", "-t", "stars", "--format", kind)
    if kind == "csv":
        assert out.splitlines()[0] == f"sentence,{name},predicted.{name},predicted.predicted.{name}"
        assert out.splitlines()[1].startswith("the pie,mine,mine too,")
    else:
        (row,) = rows(out)
        assert row["stars"] == "mine" and row["predicted.stars"] == "mine too"
        assert list(row["predicted.predicted.stars"]) == ["score"]
    assert 'these are called "predicted.predicted.stars"' in err


def test_a_stream_whose_later_row_has_the_name_of_a_prediction_is_stopped(mtl, run):
    stdin = b'{"sentence": "the pie"}\n{"sentence": "the pie", "stars": 1}\n'
    code, out, err = mtl("predict", run, "--input-format", "jsonl", "-t", "stars", stdin=stdin)
    assert (code, len(rows(out))) == (2, 1)
    assert 'error: <stdin>:2: the key "stars" is the name of a prediction' in err


def test_cut_and_empty_rows_are_counted(mtl, run):
    err = mtl(
        "predict", run, "-t", "tone", stdin=b"the pie\n\n" + b"the lamp " * 40 + b"\n" + b"pie " * 9000 + b"\n"
    ).err
    assert err.splitlines()[-1] == "4 rows; 2 longer than 32 tokens, cut there; 1 with an empty text"


def test_a_first_row_taken_for_a_header_is_noted(mtl, run, tmp_path):
    (tmp_path / "rows.tsv").write_text("the fine lamp\t1\nthe pie\t2\n")
    err = mtl("predict", run, tmp_path / "rows.tsv", "-t", "tone", "--text", "0").err
    assert (
        f'note: {tmp_path}/rows.tsv: the first line was read as the header (column 0: "the fine lamp"); if it is a row, '
        "say --no-header"
    ) in err.splitlines()


# Where it goes


def test_an_output_that_exists_is_kept_unless_it_may_be_replaced(mtl, run, tmp_path):
    (tmp_path / "a.jsonl").write_text("old\n")
    error = last_error(mtl("predict", run, "-t", "tone", "-o", tmp_path / "a.jsonl", stdin=LINES))
    assert error == f"error: --output: {tmp_path}/a.jsonl exists already: add --overwrite to replace it"
    assert (tmp_path / "a.jsonl").read_text() == "old\n"
    assert mtl("predict", run, "-t", "tone", "-o", tmp_path / "a.jsonl", "--overwrite", stdin=LINES).code == 0
    assert len(rows((tmp_path / "a.jsonl").read_text())) == 3


@pytest.mark.parametrize("name", ["rows.csv", "link.csv", "hard.csv"])
def test_the_input_is_never_the_output(mtl, run, tmp_path, name):
    (tmp_path / "rows.csv").write_text(QUOTED)
    (tmp_path / "link.csv").symlink_to(tmp_path / "rows.csv")
    (tmp_path / "hard.csv").hardlink_to(tmp_path / "rows.csv")
    error = last_error(mtl("predict", run, tmp_path / "rows.csv", "-o", tmp_path / name, "--overwrite"))
    assert error == f"error: --output: {tmp_path}/{name} is the input; write to another file"
    assert (tmp_path / "rows.csv").read_text() == QUOTED


def test_standard_output_may_not_be_the_input_either(run, tmp_path):
    (tmp_path / "rows.csv").write_text(QUOTED)
    with (tmp_path / "rows.csv").open("ab") as file:
        done = subprocess.run(
            [*preloaded.python(), "-m", "mtlcli", "predict", run, tmp_path / "rows.csv"],
            stdout=file, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 2 and "is the input and the output" in done.stderr
    assert (tmp_path / "rows.csv").read_text() == QUOTED


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "command", [["--version"], ["plugins", "list"], pytest.param(["predict"], marks=pytest.mark.slow), ["table"]]
)
def test_standard_output_on_a_full_disk_is_one_line(run, command, unbuffered):
    arguments = [*command, run] if command[0] in ("predict", "table") else command
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mtlcli", *arguments], input="the pie\n", stdout=full, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: standard output cannot be written: No space left on device"
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_an_error_line_cannot_steer_the_terminal(mtl, run):
    error = last_error(mtl("predict", run, "-t", "t\x1b[31m\x07", stdin=LINES))
    assert "\x1b" not in error and "t\\x1b[31m\\x07" in error


def test_the_format_follows_the_name_of_the_output(mtl, run, tmp_path):
    for name, start in (("a.jsonl", "{"), ("a.csv", "tone.label,"), ("a.tsv", "tone.label\t"), ("a", "{")):
        mtl("predict", run, "-t", "tone", "--output", tmp_path / name, stdin=LINES)
        assert (tmp_path / name).read_text().startswith(start)


def test_an_output_whose_name_tells_no_format_is_asked_about(mtl, run, tmp_path):
    code, _, err = mtl("predict", run, "--output", tmp_path / "a.txt", stdin=LINES)
    assert code == 2
    assert "add --format jsonl, csv, tsv, conll, conllu or squad" in err


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_standard_output_has_two_names(mtl, run, name):
    assert mtl("predict", run, "-t", "tone", "-q", "--output", name, stdin=LINES).code == 0


@pytest.mark.slow
def test_dev_stdout_into_a_file_is_utf_8_whatever_the_terminal_says_and_leaves_dev_alone(run, tmp_path):
    command = [
        sys.executable,
        "-m",
        "mtlcli",
        "predict",
        run,
        "--input-format",
        "jsonl",
        "-t",
        "stars",
        "-o",
        "/dev/stdout",
    ]
    with (tmp_path / "out.jsonl").open("wb") as file:
        subprocess.run(
            command, input='{"id": "Ω", "sentence": "the pie"}\n'.encode(), stdout=file, stderr=subprocess.DEVNULL, check=True,
            env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        )  # fmt: skip
    assert rows((tmp_path / "out.jsonl").read_text("utf-8"))[0]["id"] == "Ω"
    assert Path("/dev/stdout").is_symlink()


def test_a_link_to_the_output_stays_a_link(mtl, run, tmp_path):
    (tmp_path / "real.jsonl").write_text("old\n")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    mtl("predict", run, "-o", tmp_path / "link.jsonl", "--overwrite", stdin=LINES)
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len(rows((tmp_path / "real.jsonl").read_text())) == 3


@pytest.mark.parametrize(("output", "why"), [("none/a.csv", "no folder"), (".", "is a folder")])
def test_a_place_that_cannot_be_written_is_found_before_the_model_is_loaded(
    mtl, run, tmp_path, monkeypatch, output, why
):
    monkeypatch.setattr("mtlcli.runs.saved_model.load_run", lambda _: pytest.fail("the model was loaded"))
    code, _, err = mtl("predict", run, "-o", tmp_path / output, "--format", "csv", stdin=LINES)
    assert code == 2
    assert why in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line(mtl, run):
    code, _, err = mtl("predict", run, "-o", "/dev/full", stdin=LINES)
    assert code == 2
    assert err.splitlines()[-1] == "error: --output: /dev/full cannot be written: No space left on device"


def test_an_interrupted_command_leaves_the_old_output(mtl, run, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("mtlcli.inference.predict.predict", interrupted)
    (tmp_path / "a.jsonl").write_text("old\n")
    assert mtl("predict", run, "-o", tmp_path / "a.jsonl", "--overwrite", stdin=LINES).code == 130
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.jsonl": "old\n"}


def test_a_bad_row_of_a_file_is_found_before_anything_is_predicted(mtl, run, tmp_path, monkeypatch):
    monkeypatch.setattr("mtlcli.runs.saved_model.load_run", lambda _: pytest.fail("the model was loaded"))
    (tmp_path / "rows.tsv").write_bytes(b"id\tsentence\n1\tthe pie\n2\n3\tthe \xff pie\n")
    (tmp_path / "a.jsonl").write_text("old\n")
    for output in (["-o", tmp_path / "a.jsonl", "--overwrite"], []):  # to standard output as well
        code, out, err = mtl("predict", run, tmp_path / "rows.tsv", *output)
        assert code == 2 and out == ""
        assert err.splitlines() == [
            f"error: {tmp_path}/rows.tsv:3: expected 2 columns, found 1",
            f"error: {tmp_path}/rows.tsv:4: byte 0xff is not UTF-8 (ÿ in Latin-1 or Windows-1252); save the file as UTF-8",
        ]
    assert (tmp_path / "a.jsonl").read_text() == "old\n"


def test_a_bad_row_of_a_pipe_loses_no_row_before_it(mtl, run, tmp_path):
    stdin = b"the pie\nthe fine lamp\nthe \xff pie\nthe lamp\n"
    code, out, err = mtl("predict", run, "-t", "tone", stdin=stdin)
    assert code == 2
    assert len(rows(out)) == 2
    assert err.splitlines()[-1] == (
        "error: <stdin>:3: byte 0xff is not UTF-8 (ÿ in Latin-1 or Windows-1252); save the file as UTF-8"
    )
    (tmp_path / "a.jsonl").write_text("old\n")
    code, _, err = mtl("predict", run, "-t", "tone", "-o", tmp_path / "a.jsonl", "--overwrite", stdin=stdin)
    assert code == 2
    assert (tmp_path / "a.jsonl").read_text() == "old\n"
    assert (tmp_path / "a.jsonl.partial").read_text() == out


# Pipes


def test_a_slow_pipe_is_answered_line_by_line_and_who_stops_reading_ends_it_quietly(run):
    command = [*preloaded.python(), "-m", "mtlcli", "predict", str(run), "-t", "tone", "-q"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        for text in (b"the pie\n", b"the fine lamp\n"):
            process.stdin.write(text)
            process.stdin.flush()
            assert b"label" in process.stdout.readline()  # hangs here if answers wait for more input
        process.stdout.close()
        process.stdin.write(LINES)
        process.stdin.close()
        assert process.wait() == 141  # what a shell says of a broken pipe
        assert process.stderr.read() == b""


def test_a_named_pipe_is_read_once(mtl, run, tmp_path):
    os.mkfifo(tmp_path / "rows.txt")
    child = subprocess.Popen(["bash", "-c", f"printf 'the pie\\nthe lamp\\n' > {tmp_path}/rows.txt"])
    code, out, _ = mtl("predict", run, tmp_path / "rows.txt")
    child.wait()
    assert code == 0
    assert len(rows(out)) == 2


# What is wrong


def last_error(ended) -> str:
    assert ended.code == 2
    assert ended.out == ""
    return ended.err.splitlines()[-1]


def test_an_unknown_task_names_the_tasks_there_are(mtl, run):
    assert (
        last_error(mtl("predict", run, "-t", "tome", stdin=LINES))
        == f'error: {run}: no task "tome"; did you mean "tone"?'
    )
    assert last_error(mtl("predict", run, "-t", "sentiment", stdin=LINES)).endswith(
        "there are: tone, stars, same, near"
    )


def test_a_pair_for_a_task_of_one_text_names_both_columns(mtl, run, tmp_path):
    (tmp_path / "rows.tsv").write_text("sentence1\tsentence2\nthe pie\tthe pie\n")
    assert last_error(mtl("predict", run, tmp_path / "rows.tsv", "-t", "tone")) == (
        f"error: {tmp_path}/rows.tsv: has the columns sentence1, sentence2, but tone needs sentence; "
        "say which to read with --text NAME, or its number from 0"
    )
    assert "same reads 2 of them, --text names 1" in last_error(
        mtl("predict", run, tmp_path / "rows.tsv", "-t", "same", "--text", "sentence1")
    )


def test_one_text_for_a_task_of_pairs_says_how_a_pair_is_written(mtl, run):
    error = last_error(mtl("predict", run, "-t", "same", stdin=b"the pie\n"))
    assert error == "error: <stdin>:1: expected two texts with a tab between them, found one"


def test_a_table_or_json_that_comes_as_text_is_noticed(mtl, run, tmp_path):
    assert "say --input-format csv" in last_error(mtl("predict", run, stdin=b"id,sentence\n1,the pie\n"))
    assert "say --input-format jsonl" in last_error(mtl("predict", run, stdin=b'{"sentence": "the pie"}\n'))
    (tmp_path / "rows.txt").write_text("sentence1\tsentence2\nthe pie\tthe pie\n")
    assert "rows.txt:1: this looks like a table" in last_error(mtl("predict", run, tmp_path / "rows.txt"))
    assert mtl("predict", run, "--input-format", "text", stdin=b"id,sentence\n1,the pie\n").code == 0


def test_plain_text_has_no_columns(mtl, run):
    assert "plain text, which has no columns" in last_error(mtl("predict", run, "--text", "0", stdin=LINES))


def test_a_missing_file_or_run_is_named(mtl, run, tmp_path):
    assert last_error(mtl("predict", run, tmp_path / "none.txt")).startswith(
        f"error: {tmp_path}/none.txt: no such file"
    )
    assert "there is no such run folder" in last_error(mtl("predict", tmp_path / "none", stdin=LINES))
    assert "is a file; expected a run folder" in last_error(mtl("predict", run / "run.json", stdin=LINES))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--format", "xml"), '--format: found "xml": expected jsonl, csv, tsv, conll, conllu or squad'),
        (
            ("--input-format", "xml"),
            '--input-format: found "xml": expected one of text, csv, tsv, jsonl, json, parquet, conll, conllu',
        ),
        (("--precision", "fp64"), '--precision: found "fp64": expected one of auto, fp32, bf16'),
    ],
)
def test_a_wrong_choice_names_the_right_ones(mtl, run, flags, message):
    assert last_error(mtl("predict", run, *flags, stdin=LINES)) == f"error: {message}"


def test_an_empty_table_misses_its_header(mtl, run, tmp_path):
    (tmp_path / "rows.tsv").touch()
    assert last_error(mtl("predict", run, tmp_path / "rows.tsv")) == (
        f"error: {tmp_path}/rows.tsv: is empty; expected a header line"
    )
