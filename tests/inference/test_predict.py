"""Predicting: order, number, independence of batches, shared passes, windows and pipes."""

import os
import random
from contextlib import nullcontext

import pytest
import torch

from mtlcli.data.encodings import Apart, Plain
from mtlcli.data.pipe import Pipe
from mtlcli.data.readers import FileSource
from mtlcli.errors import MtlError
from mtlcli.inference.predict import check, find_readings, predict
from mtlcli.inference.predictor import LoadedMember, Predictor, open_run
from trained import sentence, trained

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def predictor():
    return open_run(trained()).load(CPU)[0]


@pytest.fixture(scope="module")
def run(predictor):
    return predictor.members[0][0].run


def lines(tmp_path, texts) -> FileSource:
    (tmp_path / "lines.txt").write_text("".join(text + "\n" for text in texts))
    return FileSource(tmp_path / "lines.txt")


def alone(run) -> Predictor:
    return Predictor(run.folder, run.facts, tuple((LoadedMember(run, task),) for task in range(len(run.facts))))


def numbers(prediction) -> dict[str, list[float]]:
    """Return all fields of a row's prediction, with all digits."""
    return {name: array[prediction.row].tolist() for name, array in prediction.rows.fields.items()}


def answers(run, source, *wanted, **more) -> list[dict]:
    readings = find_readings(run.record, source, wanted)
    rows = predict(alone(run), source, readings, device=CPU, autocast=nullcontext(), **more)
    return [{task: numbers(prediction) for task, prediction in found.items()} for _, found in rows]


def many(count: int) -> list[str]:
    chance = random.Random(5)
    return [" ".join(sentence(chance) for _ in range(chance.randint(0, 4))) for _ in range(count)]


# The same answers, however they come about


def test_neither_batches_nor_windows_nor_the_order_of_rows_change_a_prediction(run, tmp_path):
    texts = many(150)
    plain = answers(run, lines(tmp_path, texts), "tone", "stars", tokens=16, window=1)
    for tokens, window in ((16, 4096), (256, 64), (100_000, 4096)):
        found = answers(run, lines(tmp_path, texts), "tone", "stars", tokens=tokens, window=window)
        assert len(found) == 150
        for ours, theirs in zip(found, plain, strict=True):
            assert ours["tone"]["probabilities"] == pytest.approx(theirs["tone"]["probabilities"], abs=1e-5)
            assert ours["stars"]["value"] == pytest.approx(theirs["stars"]["value"], abs=1e-5)
    backwards = answers(run, lines(tmp_path, texts[::-1]), "tone")
    for ours, theirs in zip(reversed(backwards), plain, strict=True):
        assert ours["tone"]["probabilities"] == pytest.approx(theirs["tone"]["probabilities"], abs=1e-5)


def test_tasks_predicted_together_say_what_each_says_alone(run, tmp_path):
    source = lines(tmp_path, many(20))
    together = answers(run, source, "tone", "stars")
    for task in ("tone", "stars"):
        for ours, theirs in zip(answers(run, source, task), together, strict=True):
            assert ours[task] == theirs[task]


def test_tasks_that_read_the_same_text_alike_share_one_pass_through_the_encoder(run, tmp_path):
    passes = []
    handle = run.encoder.model.register_forward_hook(lambda *_: passes.append(1))
    try:
        answers(run, lines(tmp_path, many(10)), "tone", "stars")
        together = len(passes)
        answers(run, lines(tmp_path, many(10)), "tone")
    finally:
        handle.remove()
    assert together == len(passes) - together == 1


def test_pairs_in_one_sequence_and_pairs_read_alone_take_a_pass_each(run, tmp_path):
    (tmp_path / "pairs.tsv").write_text("sentence1\tsentence2\nthe pie\tthe lamp\n")
    readings = find_readings(run.record, FileSource(tmp_path / "pairs.tsv"), ["same", "near"])
    assert {reading.encoding: reading.tasks for reading in readings} == {Plain(): (2,), Apart(): (3,)}


def test_tasks_share_a_pass_where_the_architecture_ignores_the_task(run, monkeypatch):
    assert run.model.pass_groups([0, 1]) == [[0, 1]]
    monkeypatch.setattr(run.model, "_passes", {0: "a", 1: "b"})
    assert run.model.pass_groups([0, 1]) == [[0], [1]]


def test_the_model_is_not_training(run):
    assert not run.model.training  # no dropout


def test_a_text_without_end_is_cut_where_the_encoder_would_cut_it(run, tmp_path):
    """32 tokens are read: 40 words in 100 kB of text, whole or with 60 kB of spaces before them, are the same 40 words."""
    words = "the lamp " * 20
    found = answers(run, lines(tmp_path, [words, words + "pie " * 25_000, " " * 60_000 + words]), "tone", "stars")
    for other in found[1:]:
        assert other["tone"]["probabilities"] == pytest.approx(found[0]["tone"]["probabilities"], abs=1e-5)


def test_a_pair_of_a_short_and_an_endless_text_keeps_the_short_one_whole(run, tmp_path):
    pairs = ["the lamp\t" + "the pie " * count for count in (40, 20_000)]
    first, second = answers(run, lines(tmp_path, pairs), "same", "near")
    assert first["near"]["value"] == pytest.approx(second["near"]["value"], abs=1e-5)
    assert first["same"]["probabilities"] == pytest.approx(second["same"]["probabilities"], abs=1e-5)


def test_numbers_that_are_not_finite_are_an_error_and_no_answer(run, tmp_path, monkeypatch):
    monkeypatch.setattr(run.model, "output", lambda *_: torch.full((1, 2), float("nan")))
    with pytest.raises(MtlError, match="tone: the model's output is NaN or infinite"):
        answers(run, lines(tmp_path, ["the pie"]), "tone")


# Which tasks can read a source


def readable(run, source, *wanted, columns=(), first="") -> set[str]:
    names = list(run.record["tasks"])
    return {names[index] for one in find_readings(run.record, source, wanted, columns, first) for index in one.tasks}


def test_the_first_line_decides_which_tasks_plain_text_is_for(run, tmp_path):
    source = lines(tmp_path, ["the pie"])
    assert readable(run, source, first="the pie") == {"tone", "stars"}
    assert readable(run, source, first="the pie\tthe pie") == {"same", "near"}
    assert readable(run, source, "tone", first="the pie\tthe pie") == {"tone"}


def test_a_table_is_for_the_tasks_whose_columns_it_has(run, tmp_path):
    (tmp_path / "rows.csv").write_text("sentence,sentence1,sentence2,label\na,b,c,\n")
    assert readable(run, FileSource(tmp_path / "rows.csv")) == {"tone", "stars", "same", "near"}
    assert readable(run, FileSource(tmp_path / "rows.csv"), columns=["label", "sentence"]) == {"same", "near"}


def test_a_run_of_pairs_alone_reads_a_line_without_a_tab_as_a_mistake(run, tmp_path):
    record = {"tasks": {"same": run.record["tasks"]["same"]}}
    source = lines(tmp_path, ["the pie", "a\tb", "  "])
    readings = find_readings(record, source, first="the pie")
    with pytest.raises(MtlError) as caught:
        check(source, readings)
    assert caught.value.lines == (f"{source.name}:1: expected two texts with a tab between them, found one",)


# Windows


def test_what_was_read_before_a_bad_row_is_answered_before_it_is_told(run, tmp_path):
    (tmp_path / "rows.tsv").write_text("id\tsentence\n1\tthe pie\n2\tthe lamp\n3\n4\tthe ferry\n")
    source = FileSource(tmp_path / "rows.tsv")
    found = []
    with pytest.raises(MtlError, match=r"rows\.tsv:4: expected 2 columns, found 1"):
        for row, _ in predict(
            alone(run), source, find_readings(run.record, source, ["tone"]), device=CPU, autocast=nullcontext()
        ):
            found.append(row.values["id"])
    assert found == ["1", "2"]


def test_a_quote_that_never_closes_loses_no_row_before_it(run, tmp_path):
    (tmp_path / "rows.csv").write_text('id,sentence\n1,the pie\n2,"the lamp\n3,the ferry\n')
    source = FileSource(tmp_path / "rows.csv")
    rows = predict(alone(run), source, find_readings(run.record, source, ["tone"]), device=CPU, autocast=nullcontext())
    assert next(rows)[0].values["id"] == "1"
    with pytest.raises(MtlError, match=r"rows\.csv:3: the quote opened here never closes"):
        next(rows)


def read_ahead(run, source, **more) -> list[int]:
    """How many rows had been read when each answer came."""
    readings = find_readings(run.record, source, ["tone"])
    assert source.columns == ("text",)  # has looked at the first line
    lines, read, given = source._lines, [], []

    def counting():
        for line in lines():
            read.append(line)
            yield line

    source._lines = counting
    for _ in predict(alone(run), source, readings, device=CPU, autocast=nullcontext(), **more):
        given.append(len(read))  # noqa: PERF401
    return given


def test_windows_begin_small_and_stay_bounded(run, tmp_path):
    given = read_ahead(run, lines(tmp_path, ["the pie"] * 700), window=200)
    assert list(dict.fromkeys(given)) == [64, 264, 464, 664, 700]


def test_long_texts_fill_a_window_sooner(run, tmp_path, monkeypatch):
    monkeypatch.setattr("mtlcli.inference.predict.CHARACTERS", 100)
    given = read_ahead(run, lines(tmp_path, ["the pie " * 10] * 6))
    assert list(dict.fromkeys(given)) == [2, 4, 6]


def test_rows_that_are_there_do_not_wait_for_those_to_come(run, tmp_path):
    moments = iter([True, True, False, False, True])
    given = read_ahead(run, lines(tmp_path, ["the pie"] * 6), ready=lambda _: next(moments, True))
    assert list(dict.fromkeys(given)) == [3, 4, 6]


# Pipes


def piped(content: bytes) -> Pipe:
    ours, theirs = os.pipe()
    os.write(theirs, content)
    os.close(theirs)
    return Pipe(ours)


@pytest.mark.parametrize("content", [b"", b"a", b"a\n", b"a\nb", b"\n\n", b"a\r\n\nb\n", b"x" * 40_000 + b"\ny\n"])
def test_a_pipe_gives_the_lines_of_its_bytes(content):
    assert list(piped(content)) == content.splitlines(keepends=True)


def test_a_line_that_arrives_in_pieces_is_one_line():
    ours, theirs = os.pipe()
    pipe = Pipe(ours)
    os.write(theirs, b"one\ntw")
    assert pipe.readline() == b"one\n"
    assert not Pipe(ours).ready()
    os.write(theirs, b"o\nthr")
    assert pipe.readline() == b"two\n"
    os.close(theirs)
    assert list(pipe) == [b"thr"]


def test_a_pipe_knows_whether_it_has_more_without_waiting_for_it():
    ours, theirs = os.pipe()
    pipe = Pipe(ours)
    assert not pipe.ready(0)
    os.write(theirs, b"one\ntwo\n")
    assert pipe.ready(0)
    assert pipe.peek() == pipe.readline() == b"one\n"
    assert pipe.ready(0)
    assert pipe.readline() == b"two\n"
    assert not pipe.ready(0)
    os.close(theirs)
    assert pipe.ready(0)  # the end is there
    assert pipe.peek() == pipe.readline() == b""
