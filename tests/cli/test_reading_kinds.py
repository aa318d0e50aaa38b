"""Choices, answers, relations and inference from the command line, together in one run."""

import json
import random
import signal
from pathlib import Path

import pytest

import mtlcli
from mtlcli.data.squad import begins_squad
from mtlcli.training.events import Stepped

PLACES, THINGS, PEOPLE = ("varn", "tollen", "quay", "marn"), ("mill", "bridge", "tower"), ("mila", "oskar", "ines")
METHODS = [
    *(f"balancer={name}" for name in ("uncertainty", "gradnorm", "famo")),
    *(f"gradient_regularizer={name}" for name in ("pcgrad", "gradvac")),
    *(f"regularizers={name}" for name in ("smart", "bppo")),
]


def question(chance: random.Random, number: int) -> dict:
    place, thing = chance.choice(PLACES), chance.choice(THINGS)
    before = "a cook saw a cat . " * chance.choice([0, 3])
    context = f"{before}the old {thing} stands in {place} ."
    start = context.index(place)
    asked = [
        {
            "id": f"{number}a",
            "question": f"where is the {thing} ?",
            "answers": [{"text": place, "answer_start": start}],
        },
        {"id": f"{number}b", "question": f"who built the {thing} ?", "answers": [], "is_impossible": True},
    ]
    return {"context": context, "qas": asked}


def write_rows(folder: Path, split: str, seed: int, count: int) -> None:
    chance = random.Random(seed)
    choices, relations, pairs = [], [], ["premise\thypothesis\tgold_label"]
    for _ in range(count):
        places, thing = chance.sample(PLACES, 3), chance.choice(THINGS)
        right = chance.randrange(3)
        choices.append(
            {"context": f"the {thing} is in {places[right]}", "question": "where ?", "choices": places, "label": right}
        )
        verb, relation = chance.choice([("owns", "owner"), ("leaves", "none")])
        who, where = chance.choice(PEOPLE), chance.choice(PLACES)
        relations.append({"text": f"<e1>{who}</e1> {verb} <e2>{where}</e2> today", "relation": relation})
        label, text = chance.choice(
            [("ENTAILMENT", "it is old"), ("c", "it is new"), ("neutral", "it is red"), ("-", "it is")]
        )
        pairs.append(f"the {thing} is old\t{text}\t{label}")
    (folder / f"choice-{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in choices))
    (folder / f"relation-{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in relations))
    (folder / f"nli-{split}.tsv").write_text("\n".join(pairs) + "\n")
    paragraphs = [question(chance, number) for number in range(count)]
    squad = {"version": "v2.0", "data": [{"title": "made up", "paragraphs": paragraphs}]}
    (folder / f"answers-{split}.json").write_text(json.dumps(squad))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reading")
    write_rows(folder, "train", 1, 60)
    write_rows(folder, "dev", 2, 15)

    def task(name: str, kind: str, suffix: str, **more: object) -> dict:
        return {"kind": kind, "train": f"{name}-train.{suffix}", "dev": f"{name}-dev.{suffix}", **more}

    recipe = {
        "tasks": {
            "choice": task("choice", "multiple-choice", "jsonl"),
            "answers": task("answers", "span-extraction", "json"),
            "relation": task("relation", "relation", "jsonl", negative="none"),
            "nli": task("nli", "nli", "tsv"),
        },
        "encoder": {"name": "tiny", "layers": 1, "dim": 32, "max_length": 24},
        "optimizer": {"lr": 5e-3, "head_lr": 5e-3},
        "training": {"epochs": 5, "batch_size": 8, "device": "cpu"},
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder


@pytest.fixture(scope="module")
def trained(data) -> Path:
    mtlcli.train(data / "recipe.json", output=data / "run")
    return data / "run"


def test_one_run_learns_answers_relations_and_inference_and_measures_choices(trained, mtl):
    ended = mtl("eval", trained, "--json")
    assert ended.code == 0, ended.err
    results = {task: measured["dev"] for task, measured in json.loads(ended.out)["tasks"].items()}
    assert {task: list(metrics) for task, metrics in results.items()} == {
        "choice": ["accuracy"], "answers": ["answer-f1", "answer-exact-match"],
        "relation": ["relation-f1", "accuracy", "macro-f1"], "nli": ["accuracy", "macro-f1"],
    }  # fmt: skip
    assert results["answers"]["answer-exact-match"]["value"] > 0.9
    assert results["answers"]["answer-exact-match"]["n"] == 30
    assert results["relation"]["relation-f1"]["value"] > 0.9
    assert results["nli"]["accuracy"]["value"] > 0.9


def test_check_says_how_rows_are_read(data, mtl):
    ended = mtl("check", "-c", data / "recipe.json")
    assert ended.code == 0, ended.err
    text = " ".join((ended.out + ended.err).split())
    assert "choice train: a label names the right choice by its number, counted from 0" in text
    assert "60 rows of 3 choices" in text
    assert "120 questions, 60 without an answer" in text
    assert "because their label is '-' (no_label)" in text
    assert "answers: " in text and "are read in" in text and "choice: 60 texts" not in text


def test_every_kind_predicts_in_its_own_words(trained, mtl, data):
    row = {"context": "the mill is in varn", "question": "where ?", "choices": ["marn", "varn"]}
    (data / "new.jsonl").write_text(json.dumps(row) + "\n")
    ended = mtl("predict", trained, data / "new.jsonl", "--task", "choice", "-q", "--columns", "none")
    predicted = json.loads(ended.out)["choice"]
    assert predicted["text"] == row["choices"][predicted["choice"]]
    assert sum(predicted["probabilities"]) == pytest.approx(1, abs=1e-5)
    ended = mtl("predict", trained, "--task", "relation", "-q", stdin=b"<e1>mila</e1> owns <e2>varn</e2> today\n")
    assert json.loads(ended.out)["relation"]["label"] == "owner"
    context = "the old tower stands in marn ."
    ended = mtl("predict", trained, "--task", "answers", "-q", stdin=f"where is the tower ?\t{context}\n".encode())
    predicted = json.loads(ended.out)["answers"]
    assert (predicted["answer"], context[predicted["start"] : predicted["end"]]) == ("marn", "marn")
    ended = mtl("predict", trained, data / "answers-dev.json", "-t", "answers", "--format", "squad", "-q")
    answers = json.loads(ended.out)
    assert len(answers) == 30 and answers["3b"] == ""
    model = mtlcli.load(trained)
    (first,) = model.predict([("where is the tower ?", context)], task="answers")
    assert first.as_json()["answer"] == "marn"
    (second,) = model.predict([row], task="choice")
    assert second.as_json()["text"] in row["choices"]
    assert "choice=" in repr(second)


def test_what_a_kind_cannot_write_or_read_is_one_line(trained, mtl, data):
    ended = mtl(
        "predict",
        trained,
        data / "answers-dev.json",
        "--format",
        "squad",
        "-t",
        "choice",
        "--text",
        "context,question,id",
    )
    assert (ended.code, "writes the answers of one task, and this is choice" in ended.err) == (2, True), ended.err
    ended = mtl("predict", trained, "-t", "choice", stdin=b"some text\n")
    assert ended.code == 2 and "which a line of plain text cannot hold" in " ".join(ended.err.split())
    ended = mtl("predict", trained, "-t", "relation", stdin=b"no tags\n")
    assert ended.code == 2 and "found <e1> 0 times" in ended.err


def test_predictions_do_not_depend_on_other_rows(trained):
    model = mtlcli.load(trained)
    long = "a cook saw a cat . " * 12 + "the old mill stands in quay ."
    rows = [("where is the mill ?", long), ("where is the mill ?", "the mill stands in varn ."), ("who ?", "nobody .")]
    together = model.predict(rows, task="answers")
    for row, prediction in zip(rows, together, strict=True):
        (alone,) = model.predict([row], task="answers")
        assert (alone.as_json()["start"], alone.as_json()["answer"]) == (
            prediction.as_json()["start"],
            prediction.as_json()["answer"],
        )


def test_a_stopped_run_ends_like_the_unbroken_one(data):
    def train(name: str, **more: object) -> mtlcli.Run:
        return mtlcli.train(
            data / "recipe.json",
            balancer="uncertainty",
            output=data / name,
            training={"steps": 14, "epochs": None},
            **more,
        )

    def interrupt(event: object) -> None:
        if isinstance(event, Stepped) and event.step == 5:
            signal.raise_signal(signal.SIGINT)

    assert train("whole").finished
    assert not train("parts", on_event=interrupt).finished
    assert train("parts", resume=True).finished
    whole, parts = ((data / name / "heads.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


@pytest.mark.slow
def test_ensembles_comparisons_and_reports(data, trained, mtl):
    assert mtl("train", "-c", data / "recipe.json", "-o", data / "other", "--seed", 7, "-q").code == 0
    assert mtl("ensemble", trained, data / "other", "-o", data / "both").code == 0
    ended = mtl("eval", data / "both", "--json")
    assert json.loads(ended.out)["tasks"]["answers"]["dev"]["answer-exact-match"]["value"] > 0.9
    ended = mtl("compare", trained, data / "other")
    assert ended.code == 0 and "answer-f1" in ended.out and "relation-f1" in ended.out, ended.err
    ended = mtl("report", trained, "-o", data / "report.html", "--errors", 2)
    assert ended.code == 0, ended.err
    assert "answer-f1" in (data / "report.html").read_text()


@pytest.mark.parametrize("method", METHODS)
def test_every_sort_of_method_takes_a_step(data, method):
    key, name = method.split("=")
    run = mtlcli.train(
        data / "recipe.json", **{key: name}, training={"steps": 2, "epochs": None, "batch_size": 4, "device": "cpu"},
        output=data / "methods" / name, overwrite=True,
    )  # fmt: skip
    assert run.finished


def test_a_run_teaches_the_next_one(data, trained):
    run = mtlcli.train(
        data / "recipe.json", output=data / "taught", training={"steps": 2, "epochs": None},
        balancer={"name": "distill-anneal", "teachers": {"choice": str(trained)}},
    )  # fmt: skip
    assert run.finished


@pytest.mark.parametrize(
    ("kind", "row", "problem"),
    [
        (
            "multiple-choice",
            {"question": "q", "choices": ["a", "b"], "label": 7},
            'label: found "7", expected a number from 0 to 1',
        ),
        ("multiple-choice", {"question": "q", "choices": ["a"], "label": 0}, "found 1 choice(s); expected two or more"),
        (
            "multiple-choice",
            {"question": "q", "choices": ["a", "a"], "label": 0},
            "choices 0 and 1 (counted from 0) are the same",
        ),
        (
            "span-extraction",
            {"question": "q", "context": "in varn", "answers": [{"text": "varn", "answer_start": 2}]},
            'answers: the answer "varn" is not at character 2 (found " var"); it stands at 3',
        ),
        ("relation", {"text": "<e1>a</e1> b", "relation": "x"}, "text: found <e2> 0 times"),
        (
            "nli",
            {"premise": "a", "hypothesis": "b", "label": "1"},
            "label: found '1', expected one of entailment, neutral",
        ),
    ],
)
def test_a_broken_row_is_one_line(mtl, tmp_path, kind, row, problem):
    good = {
        "multiple-choice": {"question": "q", "choices": ["a", "b"], "label": 0},
        "span-extraction": {"question": "q", "context": "in varn", "answers": []},
        "relation": {"text": "<e1>a</e1> b <e2>c</e2>", "relation": "y"},
        "nli": {"premise": "a", "hypothesis": "b", "label": "entailment"},
    }[kind]
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in (good, row, good)))
    ended = mtl("check", "--set", f"tasks.t.kind={kind}", "--set", f"tasks.t.train={path}")
    assert ended.code == 2 and f"{path}:2: " in ended.err.replace("\n", ""), ended.err
    assert problem in " ".join(ended.err.split()), ended.err
    assert len(ended.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            '{"data": [{"paragraphs": [{"qas": [{"question": "q"}]}]}]}',
            "found no 'context'; expected data[].paragraphs[].qas[]",
        ),
        ('{"data": [{"paragraphs": ', "not JSON"),
        (
            '{"data": [{"paragraphs": [{"context": "a b", "qas": [{"id": "z", "question": "q", "is_impossible": true, '
            '"answers": [{"text": "a", "answer_start": 0}]}]}]}]}',
            'bad.json:1: the question "z" is_impossible, but has 1 answer(s)',
        ),
    ],
)
def test_a_broken_file_of_squad_is_one_line(mtl, tmp_path, content, problem):
    (tmp_path / "bad.json").write_text(content)
    ended = mtl("check", "--set", "tasks.t.kind=span-extraction", "--set", f"tasks.t.train={tmp_path / 'bad.json'}")
    assert ended.code == 2 and problem in " ".join(ended.err.split()), ended.err
    assert len(ended.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"data": [{"paragraphs": ["é"]}]}'.encode("latin-1"), "not UTF-8"),
        (b'{"version": "1", "data": [1]}', "its objects and lists are arranged otherwise"),
    ],
)
def test_a_damaged_file_of_squad_is_one_line(tmp_path, mtl, content, problem):
    path = tmp_path / "questions.json"
    path.write_bytes(content)
    task = f"q={path},{path}"
    ended = mtl("check", "--task", task, "--set", "tasks.q.kind=span-extraction", "--encoder", "tiny")
    assert ended.code == 2 and problem in ended.err and "Traceback" not in ended.err, ended.err


def test_a_file_of_squad_may_begin_with_a_byte_order_mark():
    assert begins_squad(b'\xef\xbb\xbf{"version": "1.1", "data": [')
