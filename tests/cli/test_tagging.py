"""Tags from the command line: train, check, predict, eval, resume, ensemble, compare and report, alone and with classes."""

import json
import random
import signal
from pathlib import Path

import pytest

import mtlcli
from mtlcli import registry
from mtlcli.training.events import Stepped

PEOPLE, PLACES = ("Mila", "Oskar", "Ines", "Tarek"), ("Varn", "Lower Quay", "Tollen")
METHODS = [
    *(f"balancer={name}" for name in ("uncertainty", "gradnorm", "famo", "dwa")),
    *(f"gradient_regularizer={name}" for name in ("pcgrad", "gradvac", "graddrop")),
    *(f"regularizers={name}" for name in ("smart", "bppo", "l2-sp")),
]


def sentences(seed: int, count: int) -> list[list[tuple[str, str]]]:
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        place = chance.choice(PLACES).split()
        tagged = [("B-LOC" if number == 0 else "I-LOC") for number in range(len(place))]
        rows.append([(chance.choice(PEOPLE), "B-PER"), ("left", "O"), *zip(place, tagged, strict=True), (".", "O")])
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tagging")
    for split, seed, count in (("train", 1, 60), ("dev", 2, 20)):
        rows = sentences(seed, count)
        lines = ["\n".join(f"{word}\t{tag}" for word, tag in row) + "\n\n" for row in rows]
        (folder / f"{split}.conll").write_text("".join(lines))
        table = [f"{' '.join(word for word, _ in row)}\t{row[2][0]}" for row in rows]
        (folder / f"{split}.tsv").write_text("\n".join(["text\tlabel", *table, ""]))
    recipe = {
        "tasks": {
            "names": {"kind": "tagging", "train": "train.conll", "dev": "dev.conll"},
            "place": {"kind": "classification", "train": "train.tsv", "dev": "dev.tsv"},
        },
        "encoder": {"name": "tiny", "layers": 1, "dim": 32, "max_length": 16},
        "optimizer": {"lr": 5e-3, "head_lr": 5e-3},
        "training": {"epochs": 6, "batch_size": 8, "device": "cpu"},
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder


@pytest.fixture(scope="module")
def trained(data) -> Path:
    folder = data / "run"
    mtlcli.train(data / "recipe.json", output=folder)
    return folder


def test_a_run_of_tags_and_classes_learns_both(trained, mtl):
    ended = mtl("eval", trained, "--json")
    assert ended.code == 0, ended.err
    results = json.loads(ended.out)["tasks"]
    assert results["names"]["dev"]["span-f1"]["value"] > 0.9
    assert results["place"]["dev"]["accuracy"]["value"] > 0.9
    assert list(results["names"]["dev"]) == ["span-f1", "span-precision", "span-recall", "tag-accuracy"]
    assert results["names"]["dev"]["span-f1"]["n"] == 20


def test_text_gives_spans_by_characters_and_conll_gives_its_lines_and_a_column(trained, mtl, data):
    ended = mtl("predict", trained, "--task", "names", "-q", stdin=b"Mila left Lower Quay.\n\n")
    first, blank = map(json.loads, ended.out.splitlines())
    assert [(span["text"], span["type"]) for span in first["names"]["entities"]] == [
        ("Mila", "PER"),
        ("Lower Quay", "LOC"),
    ]
    assert blank["names"] == {"words": [], "tags": [], "entities": []}
    (data / "new.conll").write_text("Oskar\tNNP\nleft\tVBD\nVarn\tNNP\n\nInes\tNNP\n")
    ended = mtl("predict", trained, data / "new.conll", "--task", "names", "--format", "conll", "-q")
    assert ended.out.startswith("Oskar\tNNP\tB-PER\nleft\tVBD\tO\nVarn\tNNP\tB-LOC\n\nInes\tNNP\t")
    ended = mtl("predict", trained, data / "new.conll", "--task", "names", "--format", "csv", "-q")
    assert ended.out.splitlines()[:2] == [
        "0,1,names.tags,names.entities", "Oskar left Varn,NNP VBD NNP,B-PER O B-LOC,PER:0-5 LOC:11-15",
    ]  # fmt: skip


def test_a_text_longer_than_the_encoder_gets_a_tag_for_every_word(trained):
    words = ["Mila", "left", "Lower", "Quay", "."] * 12
    (prediction,) = mtlcli.load(trained).predict([words], task="names")
    values = prediction.as_json()
    assert values["words"] == words and len(values["tags"]) == 60
    assert prediction.probabilities is None


def test_predictions_do_not_depend_on_other_rows(trained):
    model = mtlcli.load(trained)
    texts = ["Mila left Varn.", "Oskar left Lower Quay. " * 9, "Ines left."]
    assert model.predict(texts, task="names") == [model.predict([text], task="names")[0] for text in texts]


def test_an_output_of_words_needs_tasks_of_words(trained, mtl, data):
    ended = mtl("predict", trained, data / "dev.tsv", "--format", "conll")
    assert (ended.code, ended.err.strip()) == (
        2, "error: --format conll: place predicts no words; name the tasks with --task, or use --format jsonl",
    ) or "predicts no words" in ended.err  # fmt: skip
    (data / "new.conllu").write_text(
        "# x\n1-2\tVarns\t_\t_\t_\t_\t_\t_\t_\t_\n1\tVarn\t_\tX\t_\t_\t_\t_\t_\t_\n2\ts\t_\tX\t_\t_\t_\t_\t_\t_\n"
    )
    ended = mtl("predict", trained, data / "new.conllu", "-t", "names", "--text", "FORM", "--format", "conllu")
    assert (ended.code, "names was not trained on a column of CoNLL-U" in ended.err) == (2, True)


def test_conllu_keeps_comments_and_ranges(data, mtl):
    lines = [
        f"# sent {number}\n1\t{row[0][0]}\t_\tPROPN" + "\t_" * 6 + "\n2-3\tleftit" + "\t_" * 8 + "\n2\tleft\t_\tVERB" + "\t_" * 6
        + "\n3\tit\t_\tPRON" + "\t_" * 6 + "\n\n"
        for number, row in enumerate(sentences(3, 30))
    ]  # fmt: skip
    (data / "pos.conllu").write_text("".join(lines))
    mtlcli.train(
        tasks={"pos": {"kind": "tagging", "train": str(data / "pos.conllu"), "dev": "20%", "label": "UPOS"}},
        encoder={"name": "tiny", "layers": 1, "dim": 32}, training={"steps": 20, "device": "cpu"},
        optimizer={"lr": 1e-2, "head_lr": 1e-2}, output=data / "pos",
    )  # fmt: skip
    (data / "bare.conllu").write_text("".join(lines[:2]).replace("PROPN", "_").replace("VERB", "_"))
    ended = mtl("predict", data / "pos", data / "bare.conllu", "--format", "conllu", "-q")
    assert ended.out == "".join(lines[:2])
    assert "tag-accuracy" in mtl("eval", data / "pos").out


def test_a_stopped_run_ends_like_the_unbroken_one(data):
    def train(name: str, **more: object) -> mtlcli.Run:
        return mtlcli.train(
            data / "recipe.json", tasks={"names": {"head": "tag-crf"}}, balancer="uncertainty", output=data / name,
            training={"steps": 14, "epochs": None}, **more,
        )  # fmt: skip

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
    assert json.loads(ended.out)["tasks"]["names"]["dev"]["span-f1"]["value"] > 0.9
    ended = mtl("compare", trained, data / "other")
    assert ended.code == 0 and "span-f1" in ended.out, ended.err
    ended = mtl("report", trained, "-o", data / "report.html")
    assert ended.code == 0, ended.err
    assert "span-f1" in (data / "report.html").read_text()


@pytest.mark.parametrize("method", METHODS)
def test_every_sort_of_method_takes_a_step(data, method):
    key, name = method.split("=")
    run = mtlcli.train(
        data / "recipe.json", **{key: name}, training={"steps": 2, "epochs": None, "batch_size": 4, "device": "cpu"},
        output=data / "methods" / name, overwrite=True,
    )  # fmt: skip
    assert run.finished
    assert name in {entry.name for entry in registry.built_in(key if key.endswith("s") else f"{key}s")}


def test_check_says_what_the_tags_are(data, mtl):
    ended = mtl("check", "-c", data / "recipe.json")
    assert ended.code == 0, ended.err
    text = " ".join((ended.out + ended.err).split())
    assert "names train: tags are BIO" in text
    assert "spans PER 60, LOC 60" in text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("EU\tB-ORG\nrejects\n", "expected 2 columns as on line 1, found 1"),
        ("EU\tB_ORG\nrejects\tO\n" + "x\tO\n" * 40 + "\ny\tB-ORG\n", 'tag "B_ORG": expected O or PREFIX-TYPE'),
        ("", "is empty"),
    ],
)
def test_a_broken_file_is_one_line(data, mtl, tmp_path, content, problem):
    (tmp_path / "bad.conll").write_text(content)
    ended = mtl("check", "--set", "tasks.t.kind=tagging", "--set", f"tasks.t.train={tmp_path / 'bad.conll'}")
    assert ended.code == 2 and problem in ended.err.replace("\n", " "), ended.err
    assert len(ended.err.strip().splitlines()) == 1


@pytest.mark.parametrize("head", ["tag-linear", "tag-crf"])
def test_a_run_is_distilled_into_another_with_either_head(data, trained, head):
    """By the probabilities of the teacher alone."""
    run = mtlcli.train(
        data / "recipe.json", output=data / f"taught-{head}", tasks={"names": {"head": head}},
        balancer={"name": "distill-anneal", "teachers": {"names": str(trained)}, "mode": "fixed", "weight": 0.0},
    )  # fmt: skip
    assert run.results["names"]["span-f1"].value > 0.9


def test_names_are_measured_by_their_words_in_eval_and_compare(data, trained, mtl):
    runs = []
    for seed in (1, 2):
        runs.append(data / f"names-{seed}")
        mtlcli.train(
            data / "recipe.json", output=runs[-1], tasks={"names": {"metrics": ["span-f1", "surface-f1"]}},
            training={"seed": seed},
        )  # fmt: skip
    ended = mtl("eval", runs[0], "--json")
    value = json.loads(ended.out)["tasks"]["names"]["dev"]["surface-f1"]["value"]
    ended = mtl("compare", *runs, "--metric", "surface-f1", "--json")
    assert ended.code == 0, ended.err
    (row,) = [row for row in json.loads(ended.out)["compared"] if row["metric"] == "surface-f1"]
    assert row["baseline_value"] == pytest.approx(value)


def test_a_table_of_conll_rows_needs_no_columns_of_the_input(trained, mtl, data):
    ended = mtl("predict", trained, data / "dev.conll", "--task", "names", "--format", "tsv", "--columns", "none", "-q")
    assert ended.code == 0, ended.err
    header, first, *_ = ended.out.splitlines()
    assert header.split("\t") == ["names.tags", "names.entities"] and "B-PER" in first
