"""Sets of labels from the command line: train, check, predict, eval, resume, ensemble, compare and report, and bad input."""

import json
import random
import signal
from pathlib import Path

import pytest

import mtlcli
from mtlcli.errors import MtlError
from mtlcli.training.events import Stepped

TOPICS = {"soup": "food", "bread": "food", "train": "travel", "bus": "travel", "film": "art", "goal": "sport"}
NAMES = ("art", "food", "sport", "travel")
METRICS = ["micro-f1", "macro-f1", "subset-accuracy", "mean-average-precision", "micro-f1-at-half"]
TINY = {"name": "tiny", "layers": 1, "dim": 32, "max_length": 16}


def rows(seed: int, count: int) -> list[tuple[str, list[str]]]:
    chance = random.Random(seed)
    places = ("near", "behind", "beside", "under", "above")
    made = []
    for _ in range(count):
        words = chance.sample([*TOPICS] if chance.random() < 0.8 else ["stone", "tree"], 2)
        text = f"the {words[0]} {chance.choice(places)} the {words[1]} {chance.choice(places)} the {chance.choice(('wall', 'road'))}"
        made.append((text, sorted({TOPICS[word] for word in words if word in TOPICS})))
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The same rows as a cell with a separator, as a list, and as columns of 0 and 1; and a recipe for the first."""
    folder = tmp_path_factory.mktemp("multi-label")
    for split, seed, count in (("train", 1, 90), ("dev", 2, 50)):
        made = rows(seed, count)
        (folder / f"{split}.tsv").write_text(
            "text\tlabels\n" + "".join(f"{text}\t{'|'.join(labels)}\n" for text, labels in made)
        )
        (folder / f"{split}.jsonl").write_text(
            "".join(json.dumps({"text": text, "labels": labels}) + "\n" for text, labels in made)
        )
        cells = [f"{text},{','.join(str(int(name in labels)) for name in NAMES)}\n" for text, labels in made]
        (folder / f"{split}.csv").write_text(f"text,{','.join(NAMES)}\n" + "".join(cells))
        first = [f"{text}\t{labels[0] if labels else 'none'}\n" for text, labels in made]
        (folder / f"first-{split}.tsv").write_text("text\tlabel\n" + "".join(first))
    recipe = {
        "tasks": {
            "topics": {"kind": "multi-label", "train": "train.tsv", "dev": "dev.tsv"},
            "first": {"kind": "classification", "train": "first-train.tsv", "dev": "first-dev.tsv"},
        },
        "encoder": TINY,
        "optimizer": {"lr": 1e-2, "head_lr": 1e-2},
        "training": {"epochs": 7, "batch_size": 8, "device": "cpu"},
    }  # fmt: skip
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder


@pytest.fixture(scope="module")
def trained(data) -> Path:
    mtlcli.train(data / "recipe.json", output=data / "run")
    return data / "run"


def thresholds_of(run: Path) -> dict[str, float]:
    target = json.loads((run / "run.json").read_text())["tasks"]["topics"]["facts"]["target"]
    return dict(zip(target["names"], target["thresholds"], strict=True))


def test_a_run_of_label_sets_and_classes_learns_both(trained, mtl):
    ended = mtl("eval", trained, "--json")
    assert ended.code == 0, ended.err
    results = json.loads(ended.out)["tasks"]
    assert list(results["topics"]["dev"]) == METRICS
    assert results["topics"]["dev"]["micro-f1"]["value"] > 0.85
    assert results["topics"]["dev"]["mean-average-precision"]["value"] > 0.9
    assert results["first"]["dev"]["accuracy"]["value"] > 0.9
    assert results["topics"]["dev"] == json.loads((trained / "results.json").read_text())["tasks"]["topics"]["dev"]


def test_thresholds_are_stored_with_the_run_and_told(trained):
    thresholds = thresholds_of(trained)
    assert list(thresholds) == list(NAMES) and all(0 < value < 1 for value in thresholds.values())
    assert any(value != 0.5 for value in thresholds.values())
    assert f"topics: tuned on dev: thresholds art {thresholds['art']:.3g}, food" in (trained / "train.log").read_text()
    for line in (trained / "predictions" / "topics.dev.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["labels"] == [name for name in NAMES if row["probabilities"][name] >= thresholds[name]]


def test_predictions_are_labels_and_probabilities_and_a_threshold_overrides(trained, mtl):
    text = b"the soup near the train under the wall\nthe stone near the tree under the wall\n"
    ended = mtl("predict", trained, "--task", "topics", "-q", stdin=text)
    both, none = (json.loads(line)["topics"] for line in ended.out.splitlines())
    assert (both["labels"], none["labels"]) == (["food", "travel"], [])
    assert list(both["probabilities"]) == list(NAMES)
    ended = mtl("predict", trained, "--task", "topics", "-q", "--threshold", 0, stdin=text)
    assert [json.loads(line)["topics"]["labels"] for line in ended.out.splitlines()] == [list(NAMES)] * 2
    ended = mtl("predict", trained, "--task", "topics", "-q", "--format", "csv", stdin=text)
    header, first, _ = ended.out.splitlines()
    assert header == "topics.labels," + ",".join(f"topics.probability.{name}" for name in NAMES)
    assert first.startswith("food|travel,0.")
    ended = mtl("predict", trained, "--task", "first", "--threshold", 0.5, stdin=text)
    assert ended.code == 2 and ended.err.startswith("error: threshold: first: this task predicts one of"), ended.err
    ended = mtl("predict", trained, "--threshold", 1.5, stdin=text)
    assert ended.code == 2 and "--threshold" in ended.err


def test_the_python_api_gives_labels_and_takes_a_threshold(trained):
    texts = ["the soup near the train under the wall", "the stone near the tree under the wall"]
    both, none = mtlcli.load(trained).predict(texts, task="topics")
    assert (both.labels, none.labels, both.label) == (["food", "travel"], [], None)
    assert set(both.probabilities) == set(NAMES) and both.probabilities["food"] >= thresholds_of(trained)["food"]
    (everything,) = mtlcli.load(trained, threshold=0.0).predict(texts[:1], task="topics")
    assert everything.labels == list(NAMES)
    assert mtlcli.load(trained).predict(texts[:1], task="first")[0].labels is None
    with pytest.raises(MtlError, match="threshold: found 2; expected a probability from 0 to 1"):
        mtlcli.load(trained, threshold=2.0)


def test_a_list_and_columns_of_0_and_1_train_the_same_model_as_a_cell(data, trained):
    weights = {}
    for name, more in (("tsv", {}), ("jsonl", {}), ("csv", {"label": list(NAMES)})):
        task = {"kind": "multi-label", "train": str(data / f"train.{name}"), "dev": str(data / f"dev.{name}"), **more}
        run = mtlcli.train(
            tasks={"topics": task}, encoder=TINY, training={"steps": 4, "batch_size": 8, "device": "cpu"}, output=data / name
        )  # fmt: skip
        weights[name] = (Path(run) / "heads.safetensors").read_bytes(), thresholds_of(Path(run))
    assert weights["tsv"] == weights["jsonl"] == weights["csv"]


def test_thresholds_are_those_of_the_selected_step_whatever_comes_after(data):
    """A run that ends at the step which a longer one selects has the same thresholds."""
    longer = mtlcli.train(data / "recipe.json", output=data / "longer", training={"steps_per_epoch": 4, "epochs": 6})
    selected = json.loads((Path(longer) / "run.json").read_text())["step"]
    by_step = {}

    def note(event: object) -> None:
        if isinstance(event, mtlcli.training.events.Saved) and (data / "again" / "run.json").exists():
            by_step[event.step] = thresholds_of(data / "again")

    mtlcli.train(
        data / "recipe.json", output=data / "again", training={"steps_per_epoch": 4, "epochs": 6}, on_event=note
    )
    assert thresholds_of(Path(longer)) == by_step[selected] == by_step[24]


def test_a_stopped_run_ends_like_the_unbroken_one(data):
    def train(name: str, **more: object) -> mtlcli.Run:
        return mtlcli.train(
            data / "recipe.json", balancer="uncertainty", output=data / name,
            tasks={"topics": {"class_weights": "auto", "label_smoothing": 0.1}},
            training={"steps": 14, "steps_per_epoch": 4, "epochs": None}, **more,
        )  # fmt: skip

    def interrupt(event: object) -> None:
        if isinstance(event, Stepped) and event.step == 9:
            signal.raise_signal(signal.SIGINT)

    assert train("whole").finished
    assert not train("parts", on_event=interrupt).finished
    assert train("parts", resume=True).finished
    for name in ("heads.safetensors", "predictions/topics.dev.jsonl"):
        assert (data / "whole" / name).read_bytes() == (data / "parts" / name).read_bytes()
    assert thresholds_of(data / "whole") == thresholds_of(data / "parts")


@pytest.mark.slow
def test_ensembles_comparisons_and_reports(data, trained, mtl):
    assert mtl("train", "-c", data / "recipe.json", "-o", data / "other", "--seed", 7, "-q").code == 0
    assert mtl("ensemble", trained, data / "other", "-o", data / "both").code == 0
    ended = mtl("eval", data / "both", "--json")
    assert json.loads(ended.out)["tasks"]["topics"]["dev"]["micro-f1"]["value"] > 0.8
    means = {name: (thresholds_of(trained)[name] + thresholds_of(data / "other")[name]) / 2 for name in NAMES}
    for line in (data / "both" / "predictions" / "topics.dev.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["labels"] == [name for name in NAMES if row["probabilities"][name] >= means[name]]
    ended = mtl("compare", trained, data / "other", "--metric", "all", "--task", "topics")
    assert ended.code == 0 and "subset-accuracy" in ended.out, ended.err
    ended = mtl("report", trained, "-o", data / "report.html", "--points", 0)
    assert ended.code == 0 and "micro-f1" in (data / "report.html").read_text(), ended.err


@pytest.mark.parametrize("regularizer", ["smart", {"name": "smart", "form": "mtdnn"}, "bppo"])
def test_a_regularizer_that_compares_outputs_takes_a_step(data, regularizer):
    run = mtlcli.train(
        data / "recipe.json", regularizers=[regularizer], scheduler="entropy",
        training={"steps": 2, "epochs": None, "batch_size": 4}, output=data / "regularized", overwrite=True,
    )  # fmt: skip
    assert run.finished


def test_a_run_is_distilled_into_another(data, trained):
    balancer = {"name": "distill-anneal", "teachers": {"topics": str(trained)}, "mode": "fixed", "weight": 0.0}
    run = mtlcli.train(data / "recipe.json", balancer=balancer, output=data / "student", training={"epochs": 5})
    assert run.results["topics"]["mean-average-precision"].value > 0.75


def test_pairs_have_labels_too(data, mtl):
    for split, seed, count in (("train", 3, 40), ("dev", 4, 20)):
        lines = [f"{text}\t{text[::-1]}\t{';'.join(labels)}\n" for text, labels in rows(seed, count)]
        (data / f"pairs-{split}.tsv").write_text("text1\ttext2\tlabels\n" + "".join(lines))
    task = {
        "kind": "pair-multi-label",
        "separator": ";",
        "train": str(data / "pairs-train.tsv"),
        "dev": str(data / "pairs-dev.tsv"),
    }
    for encoding, head in (("cross", "linear"), ("bi", "pair-concat")):
        run = mtlcli.train(
            tasks={"pairs": task | {"encoding": encoding}}, encoder=TINY, training={"steps": 2, "device": "cpu"},
            output=data / encoding,
        )  # fmt: skip
        assert run.config.head_of("pairs").name == head and list(run.results["pairs"]) == METRICS


def checked(mtl, *arguments: object) -> str:
    """What `mtl check` prints, without line ends of the terminal."""
    ended = mtl("check", "--encoder", "tiny", "--set", "encoder.layers=1", *arguments)
    return " ".join((ended.out + ended.err).split())


def test_check_shows_labels_weights_and_what_looks_wrong(data, mtl, tmp_path):
    text = checked(mtl, "-c", data / "recipe.json", "--set", "tasks.topics.class_weights=auto")
    assert "topics: class weights auto: sport 2.46, art 1.73" in text, text
    assert "rows without any" in text
    (tmp_path / "one.csv").write_text("text,labels\n" + '"a b","x, y"\n"c d",x\n"e f","y, z"\n' * 3)
    text = checked(mtl, "--set", "tasks.t.kind=multi-label", "--task", f"t={tmp_path / 'one.csv'}")
    assert 'every row has exactly one label, and many contain ","; is it a separator?' in text


@pytest.mark.parametrize(
    ("name", "content", "options", "problem"),
    [
        ("a.jsonl", '{"text": "a", "labels": ["spped"]}\n', ["labels=[praise,speed]"],
         ':1: labels: found "spped", expected any of praise, speed; did you mean "speed"?'),
        ("a.csv", "text,praise,insult\nx,1,0\ny,0,2\n", ["label=[praise,insult]"], ':3: insult: found "2", expected 0, 1 or empty'),
        ("a.jsonl", '{"text": "a", "labels": [0, 3]}\n', [], ":1: labels: found the number 0; list the labels"),
        ("a.jsonl", '{"text": "a", "labels": ["x"]}\n{"text": "b", "labels": ["x"]}\n', [],
         'every row has the labels "["x"]"; expected at least two different ones'),
        ("a.csv", "text,labels\nx,a|b\ny,a\n", ["range=[0,1]"], "tasks.t.range: this task predicts labels; it has no range"),
        ("a.csv", "text,labels\nx,a|b\ny,a\n", ["sampling=balanced"],
         "tasks.t.sampling: this task predicts any of the labels of the training rows, and sampling needs one class for each row"),
        ("a.csv", "text,labels\nx,a|b\ny,a\n", ["class_weights={c: 2}"], 'tasks.t.class_weights: no class "c"; there are: a, b'),
        ("a.csv", "text,labels\nx,a|b\ny,a\n", ["metrics=[pearson]"], '"pearson" measures score, and this task predicts any of a, b'),
        ("a.csv", "text,labels\nx,a|b\ny,a\n", ['separator='], "separator"),
        ("a.csv", "text,praise,insult\nx,1,0\ny,0,1\n", ["label=[praise,insul]"], 'no column "insul"'),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(mtl, tmp_path, name, content, options, problem):
    (tmp_path / name).write_text(content)
    sets = [word for option in options for word in ("--set", f"tasks.t.{option}")]
    ended = mtl(
        "check", "--set", "tasks.t.kind=multi-label", "--task", f"t={tmp_path / name}", "--encoder", "tiny", *sets
    )
    assert ended.code == 2 and problem in " ".join(ended.err.split()), ended.err
    assert ended.err.count("error:") == 1
