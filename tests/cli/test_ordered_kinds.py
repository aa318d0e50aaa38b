"""Ordered classes and distributions from the command line, together in one run."""

import json
import math
import random
import signal
from pathlib import Path

import pytest

import mtlcli
from mtlcli.training.events import Stepped
from mtlcli.training.setup import set_up

WORDS = {"bad": ("cold", "late", "dull"), "fair": ("plain", "usual", "quiet"), "good": ("warm", "early", "bright")}
VOTES = {"bad": "0,8,2", "fair": "1,1,8", "good": "9,0,1"}


def write_rows(folder: Path, split: str, seed: int, count: int) -> None:
    chance = random.Random(seed)
    ratings, moods = ["text\trating\ttrust"], ["text,joy,fear,calm,trust"]
    for _ in range(count):
        label = chance.choice(list(WORDS))
        text = f"a {chance.choice(WORDS[label])} day in {chance.choice(['varn', 'marn'])}"
        ratings.append(f"{text}\t{label}\t{chance.randint(1, 3)}")
        moods.append(f"{text},{VOTES[label]},{chance.randint(1, 3)}")
    (folder / f"rating-{split}.tsv").write_text("\n".join(ratings) + "\n")
    (folder / f"mood-{split}.csv").write_text("\n".join(moods) + "\n")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ordered")
    write_rows(folder, "train", 1, 60)
    write_rows(folder, "dev", 2, 20)
    rating = {
        "kind": "ordinal",
        "train": "rating-train.tsv",
        "dev": "rating-dev.tsv",
        "label": "rating",
        "labels": list(WORDS),
    }
    recipe = {
        "tasks": {
            "rating": rating,
            "coral": {**rating, "head": "ordinal-coral"},
            "mood": {
                "kind": "label-distribution", "train": "mood-train.csv", "dev": "mood-dev.csv", "counts": True,
                "label": ["joy", "fear", "calm"],
            },
        },
        "encoder": {"name": "tiny", "layers": 1, "dim": 32, "max_length": 16},
        "optimizer": {"lr": 5e-3, "head_lr": 5e-3},
        "training": {"epochs": 8, "batch_size": 8, "device": "cpu"},
    }  # fmt: skip
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder


@pytest.fixture(scope="module")
def trained(data) -> Path:
    mtlcli.train(data / "recipe.json", output=data / "run")
    return data / "run"


def test_a_run_learns_ranks_and_distributions(trained, mtl):
    ended = mtl("eval", trained, "--json")
    assert ended.code == 0 and "constant" not in ended.err, ended.err
    results = {task: measured["dev"] for task, measured in json.loads(ended.out)["tasks"].items()}
    assert list(results["rating"]) == ["quadratic-weighted-kappa", "mae", "accuracy", "within-one"]
    for task in ("rating", "coral"):
        assert results[task]["quadratic-weighted-kappa"]["value"] > 0.9
        assert results[task]["mae"]["value"] < 0.1
    assert list(results["mood"]) == ["total-variation", "kl-divergence", "accuracy"]
    assert results["mood"]["kl-divergence"]["value"] < 0.1
    assert results["mood"]["accuracy"]["value"] == 1.0


def test_predictions_as_json_and_cells(trained, mtl):
    ended = mtl("predict", trained, "-q", stdin=b"a warm day in varn\n")
    values = json.loads(ended.out)
    assert values["rating"]["label"] == "good" and list(values["rating"]["probabilities"]) == list(WORDS)
    assert values["mood"]["label"] == "joy" and values["mood"]["probabilities"]["joy"] > 0.5
    ended = mtl("predict", trained, "-q", "--format", "csv", "--task", "mood", stdin=b"a dull day in varn\n")
    assert ended.out.splitlines()[0] == "mood.label,mood.probability.joy,mood.probability.fear,mood.probability.calm"
    assert ended.out.splitlines()[1].startswith("fear,")


def test_check_says_what_the_labels_are(data, mtl):
    ended = mtl("check", "-c", data / "recipe.json")
    assert ended.code == 0, ended.err
    text = " ".join((ended.out + ended.err).split())
    assert "mean probabilities joy" in text
    assert "labels bad" in text


def test_options_of_classes_and_rows(data, mtl):
    rows = {"class_weights": "auto", "sampling": "balanced", "stratify": True, "max_rows": 40, "weight": "trust"}
    run = mtlcli.train(
        data / "recipe.json", output=data / "options", training={"steps": 2, "epochs": None},
        tasks={"rating": {**rows, "focal": 1.0}, "coral": rows, "mood": {"weight": "trust", "max_rows": 40}},
    )  # fmt: skip
    assert run.finished
    for option, problem in (
        (
            "coral.label_smoothing=0.1",
            '"ordinal-coral" does not support label_smoothing; remove it, or use another head',
        ),
        ("coral.focal=2", '"ordinal-coral" does not support focal; remove it, or use another head'),
        ("rating.label_smoothing=0.1", '"ordinal-cumulative" does not support label_smoothing; remove it'),
        ("mood.class_weights=auto", "class_weights needs classes"),
        ("mood.sampling=balanced", "sampling needs one class for each row"),
        ("rating.positive=good", "tasks.rating.positive: this task predicts one of bad < fair < good; remove positive"),
    ):
        ended = mtl("check", "-c", data / "recipe.json", "--set", f"tasks.{option}")
        assert ended.code == 2 and problem in " ".join(ended.err.split()), ended.err
        assert len(ended.err.splitlines()) == 1


def test_balancers_read_the_loss_that_a_guess_has_under_the_head(data):
    rating, coral, _ = set_up(mtlcli.load_config(data / "recipe.json")).facts
    assert (rating.guess, coral.guess) == (pytest.approx(math.log(3)), pytest.approx(math.log(2)))


@pytest.mark.parametrize("encoding", ["cross", "bi"])
def test_pairs_of_texts(tmp_path, mtl, encoding):
    chance, lines = random.Random(3), []
    for number in range(24):
        stars = chance.choice("123")
        row = {"text1": f"a {number}", "text2": f"no {stars} {number}", "label": stars}
        lines.append(json.dumps({**row, "probabilities": {"low": 4 - int(stars), "high": int(stars)}}))
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    file = {"train": str(tmp_path / "train.jsonl"), "dev": "25%", "encoding": encoding}
    run = mtlcli.train(
        {"encoder": {"name": "tiny", "layers": 1, "dim": 32}},
        tasks={"stars": {"kind": "pair-ordinal", **file}, "mood": {"kind": "pair-label-distribution", "counts": True, **file}},
        training={"steps": 2, "batch_size": 4, "device": "cpu"}, output=tmp_path / "run",
    )  # fmt: skip
    assert run.finished
    ended = mtl("predict", tmp_path / "run", "-q", "--input-format", "jsonl", stdin=lines[0].encode() + b"\n")
    values = json.loads(ended.out)
    assert list(values["stars"]["probabilities"]) == ["1", "2", "3"]
    assert list(values["mood"]["probabilities"]) == ["low", "high"]
    head = {"cross": "ordinal-cumulative", "bi": "pair-concat"}[encoding]
    assert mtlcli.load_config(tmp_path / "run" / "config.yaml").tasks["stars"].head.name == head


def test_a_stopped_run_ends_like_the_unbroken_one(data):
    def train(name: str, **more: object) -> mtlcli.Run:
        return mtlcli.train(data / "recipe.json", output=data / name, training={"steps": 14, "epochs": None}, **more)

    def interrupt(event: object) -> None:
        if isinstance(event, Stepped) and event.step == 5:
            signal.raise_signal(signal.SIGINT)

    assert train("whole", balancer="uncertainty").finished
    assert not train("parts", balancer="uncertainty", on_event=interrupt).finished
    assert train("parts", balancer="uncertainty", resume=True).finished
    whole, parts = ((data / name / "heads.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


@pytest.mark.slow
def test_ensembles_comparisons_reports_and_teachers(data, trained, mtl):
    assert mtl("train", "-c", data / "recipe.json", "-o", data / "other", "--seed", 7, "-q").code == 0
    assert mtl("ensemble", trained, data / "other", "-o", data / "both").code == 0
    ended = mtl("eval", data / "both", "--json")
    assert json.loads(ended.out)["tasks"]["rating"]["dev"]["quadratic-weighted-kappa"]["value"] > 0.9
    ended = mtl("compare", trained, data / "other")
    assert ended.code == 0 and "total-variation" in ended.out, ended.err
    ended = mtl("report", trained, "-o", data / "report.html", "--errors", 2)
    assert ended.code == 0, ended.err
    run = mtlcli.train(
        data / "recipe.json", output=data / "taught", training={"steps": 2, "epochs": None},
        balancer={"name": "distill-anneal", "teachers": {name: str(trained) for name in ("rating", "mood")}},
    )  # fmt: skip
    assert run.finished


@pytest.mark.parametrize(
    "method", ["gradient_regularizer=pcgrad", "regularizers=smart", "regularizers=bppo", "scheduler=entropy"]
)
def test_every_sort_of_method_takes_a_step(data, method):
    key, name = method.split("=")
    run = mtlcli.train(
        data / "recipe.json", **{key: name}, training={"steps": 2, "epochs": None, "batch_size": 4, "device": "cpu"},
        output=data / "methods" / name,
    )  # fmt: skip
    assert run.finished


@pytest.mark.parametrize(
    ("kind", "rows", "problem"),
    [
        (
            "ordinal",
            ["text\tlabel", "a\tgood", "b\tbad"],
            'bad.tsv: tasks.t.labels: "bad", "good" have no order: list all labels here, the lowest first',
        ),
        (
            "label-distribution",
            ["text\tx\ty", "a\t0.5\t0.5", "b\t0.9\t0.5"],
            "bad.tsv:3: x, y: probabilities sum to 1.4",
        ),
    ],
)
def test_a_broken_file_is_one_line(mtl, tmp_path, kind, rows, problem):
    (tmp_path / "bad.tsv").write_text("\n".join(rows) + "\n")
    more = () if kind == "ordinal" else ("--set", "tasks.t.label=[x, y]")
    ended = mtl("check", "--set", f"tasks.t.kind={kind}", "--set", f"tasks.t.train={tmp_path / 'bad.tsv'}", *more)
    assert ended.code == 2 and problem in " ".join(ended.err.split()), ended.err
    assert len(ended.err.strip().splitlines()) == 1
