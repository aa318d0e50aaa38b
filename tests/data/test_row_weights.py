"""Weights of training rows from a column, and rows drawn so that classes keep their shares."""

import json
from collections import Counter

import numpy as np
import pytest

from mtlcli import registry
from mtlcli.config.schema import TaskConfig
from mtlcli.data.splits import LoadedTask, load_task, shares_of
from mtlcli.errors import MtlError


def load(
    folder, rows: str, *, kind: str = "classification", dev: str | None = None, name: str = "csv", **config
) -> LoadedTask:
    for split, content in (("train", rows), ("dev", dev)):
        if content is not None and content.endswith("%"):
            config[split] = content
        elif content is not None:
            (folder / f"{split}.{name}").write_text(content)
            config[split] = str(folder / f"{split}.{name}")
    task = registry.load("tasks", kind, "test")("t")
    return load_task("t", TaskConfig(**config), task, data=None, sample=False, seed=1)


def table(*weights: object) -> str:
    rows = [f"row {number},{'ab'[number % 2]},{weight}\n" for number, weight in enumerate(weights)]
    return "text,label,w\n" + "".join(rows)


def test_weights_are_scaled_to_a_mean_of_1(tmp_path):
    split = load(tmp_path, table(3, 0, 0.5, 2.5), weight="w").splits["train"]
    assert split.weights.tolist() == [2.0, 0.0, pytest.approx(1 / 3), pytest.approx(5 / 3)]
    assert load(tmp_path, table(3, 0, 0.5, 2.5)).splits["train"].weights is None


def test_weights_of_scores_and_columns_by_number_work_too(tmp_path):
    text = "row 0,1.5,1\nrow 1,2,3\n"
    split = load(tmp_path, text, kind="regression", weight=2, text=[0], label=1, header=False).splits["train"]
    assert split.weights.tolist() == [0.5, 1.5]
    lines = '{"text": "x y", "label": "a", "w": 1}\n{"text": "y z", "label": "b", "w": 3.0}\n'
    assert load(tmp_path, lines, name="jsonl", weight="w").splits["train"].weights.tolist() == [0.5, 1.5]


@pytest.mark.parametrize(
    ("weight", "problem"),
    [
        ("-1", 'w: found "-1", expected a number >= 0'),
        ("nan", 'w: found "nan", expected a number >= 0'),
        ("inf", 'w: found "inf", expected a number >= 0'),
        ("much", 'w: found "much", expected a number >= 0'),
        ("", "w is empty"),
    ],
)
def test_a_weight_that_is_no_number_from_0_is_an_error_with_its_line(tmp_path, weight, problem):
    with pytest.raises(MtlError) as error:
        load(tmp_path, table(1, weight, 1), weight="w")
    assert str(error.value) == f"{tmp_path / 'train.csv'}:3: {problem}"
    skipped = load(tmp_path, table(1, weight, 1, 4), weight="w", on_bad_row="skip").splits["train"]
    assert skipped.lines.tolist() == [2, 4, 5] and skipped.weights.tolist() == [0.5, 0.5, 2.0]
    assert "1 row" in skipped.warnings[0]


def test_weights_that_are_all_0_leave_nothing_to_learn(tmp_path):
    with pytest.raises(MtlError, match=r"train.csv: the weight of every row is 0; expected some numbers > 0"):
        load(tmp_path, table(0, 0), weight="w")


def test_the_column_must_exist_in_training_alone(tmp_path):
    loaded = load(tmp_path, table(1, 2), dev="text,label\nother,a\n", weight="w")
    assert loaded.splits["dev"].weights is None
    with pytest.raises(MtlError, match=r'^tasks.t.weight: .*train.csv: no column "v" among text, label, w'):
        load(tmp_path, table(1, 2), weight="v")
    for column in ("label", "text"):
        with pytest.raises(
            MtlError, match=f'tasks.t.weight: "{column}" is a text or the label, so it cannot be the weight too'
        ):
            load(tmp_path, table(1, 2), weight=column)


def test_weights_follow_their_rows_and_have_a_mean_of_1_among_those_that_are_drawn(tmp_path):
    loaded = load(tmp_path, table(*range(1, 41)), dev="25%", weight="w", max_rows=12)
    split = loaded.splits["train"]
    numbers = split.lines - 1  # the weight in the file
    assert len(split) == 12 and split.weights.mean() == pytest.approx(1.0)
    assert split.weights.tolist() == pytest.approx((numbers / numbers.mean()).tolist())
    assert loaded.splits["dev"].weights is None


# Stratified rows

LABELS = ["common"] * 180 + ["mid"] * 18 + ["rare"] * 2


def classes_of(loaded: LoadedTask) -> Counter:
    split = loaded.splits["train"]
    return Counter(split.target.labels[index] for index in split.gold["index"].tolist())


def labelled(folder, **config) -> LoadedTask:
    order = np.random.Generator(np.random.PCG64(2)).permutation(len(LABELS))
    rows = "".join(f"row {number},{LABELS[index]}\n" for number, index in enumerate(order))
    return load(folder, "text,label\n" + rows, **config)


def test_stratified_rows_keep_the_shares_of_classes_and_no_class_is_lost(tmp_path):
    assert classes_of(labelled(tmp_path, max_rows=100, stratify=True)) == {"common": 90, "mid": 9, "rare": 1}
    assert classes_of(labelled(tmp_path, max_rows=20, stratify=True)) == {"common": 18, "mid": 1, "rare": 1}
    assert classes_of(labelled(tmp_path, max_rows=3, stratify=True)) == {"common": 1, "mid": 1, "rare": 1}
    assert classes_of(labelled(tmp_path, max_rows=2, stratify=True)) == {"common": 2}
    assert sum(classes_of(labelled(tmp_path, stratify=True)).values()) == 200


def test_stratified_rows_depend_on_the_seed_alone_and_are_in_their_order(tmp_path):
    first, again = (labelled(tmp_path, max_rows=50, stratify=True).splits["train"].lines for _ in range(2))
    assert first.tolist() == again.tolist() == sorted(first.tolist())
    other = labelled(tmp_path, max_rows=50).splits["train"].lines
    assert first.tolist() != other.tolist()


@pytest.mark.parametrize(
    ("counts", "rows", "expected"),
    [
        ([90, 9, 1], 10, [8, 1, 1]),
        ([50, 50], 3, [2, 1]),
        ([1, 1, 1, 997], 5, [1, 1, 1, 2]),
        ([5, 5, 5], 2, [1, 1, 0]),
        ([3, 2], 5, [3, 2]),
    ],
)
def test_shares_are_by_largest_remainders(counts, rows, expected):
    assert shares_of(np.array(counts), rows).tolist() == expected


def test_no_class_gets_more_rows_than_it_has():
    random = np.random.Generator(np.random.PCG64(0))
    for _ in range(200):
        counts = random.integers(1, 30, random.integers(1, 12))
        rows = int(random.integers(1, counts.sum() + 1))
        sizes = shares_of(counts, rows)
        assert sizes.sum() == rows and (sizes <= counts).all() and (sizes >= 0).all()


# Weights of dev rows


def test_weights_of_dev_rows_are_read_as_they_are_for_weighted_metrics_alone(tmp_path):
    options = {"weight": "w", "dev": table(3, 0, 4)}
    assert load(tmp_path, table(1, 1), **options).splits["dev"].weights is None
    loaded = load(tmp_path, table(1, 1), weighted_metrics=True, **options)
    assert loaded.splits["dev"].weights.tolist() == [3.0, 0.0, 4.0]


def test_a_dev_file_needs_the_column_of_the_weights_and_one_above_0(tmp_path):
    with pytest.raises(MtlError, match=r'tasks\.t\.weight: .*no column "w"'):
        load(tmp_path, table(1, 1), weight="w", dev="text,label\nx,a\n", weighted_metrics=True)
    with pytest.raises(MtlError, match=r"dev.csv: the weight of every row is 0; expected some numbers > 0"):
        load(tmp_path, table(1, 1), weight="w", dev=table(0, 0), weighted_metrics=True)


def test_a_row_that_its_weight_makes_unreadable_does_not_shift_the_rows_that_are_held_out(tmp_path):
    rows = [{"text": f"row {number}", "label": "ab"[number % 2], "w": 1} for number in range(40)]
    rows[11]["w"] = [1]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    loaded = load(tmp_path, lines, dev="20%", name="jsonl", weight="w", on_bad_row="skip")
    train, dev = ({texts[0] for texts in loaded.splits[name].texts()} for name in ("train", "dev"))
    assert not train & dev and len(train) + len(dev) == 39
