"""From a file to labelled rows: every row is used, refused with its line, or skipped and counted."""

import numpy as np
import pytest
from pydantic import ValidationError

from mtlcli import registry
from mtlcli.config.schema import TaskConfig
from mtlcli.data.columns import find_columns
from mtlcli.data.readers import FileSource
from mtlcli.data.splits import LoadedTask, load_task, overlap
from mtlcli.errors import MtlError
from mtlcli.tasks.targets import UNSEEN

PAIRS = "sentence1\tsentence2\tscore\n"


@pytest.fixture
def load(tmp_path):
    """Writes train and dev and loads a task of a kind; `name` is the extension."""

    def _load(kind="classification", train="", dev=None, name="tsv", data=None, seed=1, **config) -> LoadedTask:
        for split, text in (("train", train), ("dev", dev)):
            if text is not None and text.endswith("%"):
                config[split] = text
            elif text is not None:
                path = tmp_path / f"{split}.{name}"
                path.write_text(text)
                config.setdefault(split, str(path))
        task = registry.load("tasks", kind, "test")("t")
        return load_task("t", TaskConfig(**config), task, data=data, sample=False, seed=seed)

    return _load


def error(call, *arguments, **more) -> str:
    with pytest.raises(MtlError) as caught:
        call(*arguments, **more)
    return str(caught.value)


def warnings(loaded: LoadedTask) -> list[str]:
    return [line for split in loaded.splits.values() for line in split.warnings]


def notes(loaded: LoadedTask) -> list[str]:
    return [line for split in loaded.splits.values() for line in split.notes]


def rows(labels, header="text\tlabel\n") -> str:
    return header + "".join(f"row {number}\t{label}\n" for number, label in enumerate(labels))


# Nothing there


@pytest.mark.parametrize("name", ["tsv", "csv", "jsonl"])
@pytest.mark.parametrize("text", ["", "text\tlabel\n", "\n\n"])
def test_a_training_file_without_rows_is_an_error_that_names_the_task(load, name, text):
    if name == "jsonl":
        text = "\n" if text else text
    found = error(load, train=text, name=name)
    assert "train." in found
    assert "tasks.t (train)" in found or "expected a header" in found


@pytest.mark.parametrize("dev", ["", "text\tlabel\n"])
def test_dev_without_rows_is_left_out_with_a_warning(load, dev):
    loaded = load(train=rows("ab"), dev=dev)
    assert list(loaded.splits) == ["train"]
    assert len(warnings(loaded)) == 1
    assert "tasks.t (dev)" in warnings(loaded)[0]


def test_a_training_file_of_bad_rows_alone_says_what_was_bad(load):
    found = error(load, train="text\tlabel\n\ta\nx\t\n", on_bad_row="skip")
    assert "no usable row for tasks.t (train); 2 rows skipped" in found
    assert "train.tsv:2: text is empty" in found


def test_a_task_may_have_training_rows_only(load):
    assert list(load(train=rows("ab")).splits) == ["train"]


def test_a_task_without_training_rows_is_refused(load):
    assert "no data: give its files (--task t=train.tsv,dev.tsv) or the folder" in error(load, train=None)
    assert "no data: give its files" in error(load, train=None, dev=rows("ab"))


# Missing labels


def test_every_blank_label_and_text_is_an_error_with_its_line(load):
    found = error(load, train="text\tlabel\nx\ta\ny\t\n \tb\nz\t  \nw\tb\n").splitlines()
    assert [line.rpartition("/")[2] for line in found] == [
        "train.tsv:3: label is empty",
        "train.tsv:4: text is empty",
        "train.tsv:5: label is empty",
    ]


def test_bad_rows_are_skipped_and_counted_on_request(load):
    loaded = load(train="text\tlabel\nx\ta\ny\t\nz\tb\none\ttwo\tthree\n", on_bad_row="skip")
    assert loaded.splits["train"].lines.tolist() == [2, 4]
    assert "2 rows skipped" in warnings(loaded)[0]
    assert "train.tsv:3: label is empty" in warnings(loaded)[0]


def test_nan_is_a_word_and_no_score(load):
    assert load(train=rows(["nan", "null", "NA"])).target.labels == ("NA", "nan", "null")
    for word in ("nan", "inf", "-inf", "1_0", "1,5", "two"):
        assert f"score: found '{word}', expected a number" in error(
            load, "regression", train=rows(["1", word, "2"], "text\tscore\n")
        )


# Labels


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a", "c"], ("a", "b", "c")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["0.0", "1.0"], ("0", "1")),
        (["1", "1.0", "2"], ("1", "1.0", "2")),
        (["250", "250.0", "250.00"], ("250", "250.0", "250.00")),
        (["401.90", "401.9"], ("401.9", "401.90")),
        (["0.5", "1.0"], ("0.5", "1.0")),
        (["very good", " bad ", "ok"], ("bad", "ok", "very good")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["123456789012345678901", "123456789012345678902"], ("123456789012345678901", "123456789012345678902")),
    ],
)
def test_classes_are_sorted_by_value_where_all_are_numbers(load, labels, classes):
    loaded = load(train=rows(labels))
    assert loaded.target.labels == classes
    assert loaded.splits["train"].gold["index"].dtype == np.int64


@pytest.mark.parametrize(("train", "dev"), [("01", ["0.0", "1.0"]), (["0.0", "1.0"], "01")])
def test_whole_floats_and_integers_are_the_same_labels(load, train, dev):
    loaded = load(train=rows(train), dev=rows(dev))
    assert loaded.splits["dev"].gold["index"].tolist() == loaded.splits["train"].gold["index"].tolist() == [0, 1]
    assert warnings(loaded) == []


def test_a_column_of_floats_is_read_as_whole_numbers_with_a_note(load):
    loaded = load(train=rows(["1.0", "2.0", "10.0"]))
    assert loaded.target.labels == ("1", "2", "10")
    assert notes(loaded) == ["t train: every label ends in .0, so the classes are whole numbers: 1.0 is the class 1"]
    assert notes(load(train=rows("01"), dev=rows(["0.0", "1.0"]))) == ["t dev: 0.0 is read as 0"]


def test_codes_stay_as_they_are_written_in_every_split(load):
    loaded = load(train=rows(["1", "1.0", "401.9"]), dev=rows(["1.0", "1", "401.90", "401.9", "401.0"]))
    assert loaded.splits["dev"].gold["index"].tolist() == [1, 0, UNSEEN, 2, UNSEEN]
    assert notes(loaded) == [
        "t train: labels that are the same number are different classes, as they are written: '1' and '1.0' (merge them with "
        "aliases)"
    ]


def test_a_built_in_task_reads_a_file_of_floats(load):
    loaded = load("sst", train=rows(["0.0", "4.0", "2.0"], "sentence\tsentiment\n"))
    assert loaded.splits["train"].gold["index"].tolist() == [0, 4, 2]


# Spellings


CAFES = ("caf\u00e9", "cafe\u0301", "ca\u200bf\u00e9")


@pytest.mark.parametrize(
    ("labels", "listed", "aliases"),
    [
        (["true", "True", "TRUE", "true", "no"], "'TRUE' (1) and 'True' (1) and 'true' (2)", '{"TRUE": "true"}'),
        ([CAFES[0], CAFES[1], CAFES[0], "no"], "'cafe\\u0301' (1) and 'caf\\xe9' (2)", None),
        ([CAFES[2], CAFES[0], CAFES[0], "no"], "'caf\\xe9' (2) and 'ca\\u200bf\\xe9' (1)", None),
        (["so  so", "so so", "so so", "no"], "'so  so' (1) and 'so so' (2)", None),
    ],
)
def test_labels_that_look_alike_are_named_and_merged_on_request(load, labels, listed, aliases):
    (warning,) = warnings(load(train=rows(labels)))
    assert warning.startswith(f"t train: labels that look alike are different classes: {listed}; merge them with")
    assert aliases is None or aliases in warning
    merged = load(train=rows(labels), dev=rows([labels[0].upper(), "NO"]), normalize_labels=True)
    assert len(merged.target.labels) == 2 and warnings(merged) == []
    assert max(set(labels), key=labels.count) in merged.target.labels
    assert merged.target.labels[merged.splits["dev"].gold["index"][0]] != "no"


def test_aliases_stand_for_a_label_in_every_split(load):
    loaded = load(train=rows(["TRUE", "true", "no"]), dev=rows(["TRUE", "no"]), aliases={"TRUE": "true"})
    assert loaded.target.labels == ("no", "true")
    assert [loaded.splits[name].gold["index"].tolist() for name in ("train", "dev")] == [[1, 1, 0], [1, 0]]
    declared = load(train=rows(["y", "no"]), labels=["yes", "no"], aliases={"y": "yes"})
    assert declared.splits["train"].gold["index"].tolist() == [0, 1]
    assert load("sst", train=rows(["good", "0"], "sentence\tsentiment\n"), aliases={"good": "positive"}).splits[
        "train"
    ].gold["index"].tolist() == [3, 0]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (
            "sst",
            {"aliases": {"good": "fine"}},
            "tasks.t.aliases: found the label 'fine', expected one of very negative",
        ),
        ("classification", {"aliases": {"a": "b", "b": "c"}}, "tasks.t.aliases: 'b' is both an alias and a label"),
        ("regression", {"aliases": {"a": "b"}}, "tasks.t.aliases: this task predicts a score"),
        ("regression", {"normalize_labels": True}, "tasks.t.normalize_labels: this task predicts a score"),
    ],
)
def test_spellings_that_cannot_be_are_refused(load, kind, settings, message):
    assert message in error(load, kind, train=rows("12"), **settings)


def test_an_unseen_label_that_looks_like_one_of_training_says_how_to_read_it(load):
    (warning,) = warnings(load(train=rows("ab"), dev=rows("AB")))
    assert warning.endswith(
        "'A' (1), 'B' (1); some look like a label of training: normalize_labels: true reads them as that"
    )


@pytest.mark.parametrize("mark", ["-", "-1"])
def test_rows_without_a_label_are_noted_and_left_out_on_request(load, mark):
    labels = ["0", "1", mark, "2", mark]
    (note,) = notes(load(train=rows(labels)))
    assert note == (
        f"t train: '{mark}' often marks a row without a label, and is a class in this file; to leave these rows out: no_label: "
        f"['{mark}']"
    )
    loaded = load(train=rows(labels), dev=rows(labels), no_label=["-", "-1"])
    assert loaded.target.labels == ("0", "1", "2")
    assert loaded.splits["dev"].lines.tolist() == [2, 3, 5]
    assert notes(loaded) == [
        f"t {split}: 2 rows are left out, because their label is '{mark}' (no_label)" for split in ("train", "dev")
    ]


def test_two_classes_of_opposite_sign_are_no_mark(load):
    assert notes(load(train=rows(["-1", "1"]))) == []


def test_scores_without_a_label_are_left_out_too(load):
    assert len(load("regression", train=rows(["1", "-", "2"]), no_label="-").splits["train"]) == 2


# Held-out rows


def test_a_share_of_the_training_rows_is_held_out_by_their_texts(load):
    train = rows("ab" * 50) + rows("ab" * 50, header="")  # every text twice
    loaded = load(train=train, dev="10%")
    train_split, dev = loaded.splits["train"], loaded.splits["dev"]
    assert (len(train_split), len(dev)) == (180, 20)
    assert overlap(train_split, dev) == 0
    assert sorted([*train_split.lines, *dev.lines]) == list(range(2, 202))
    assert notes(loaded) == [f"t dev: 20 rows of {dev.source.name} are held out (dev: 10%, dev_seed: 0)"]
    again = load(train=train, dev="10%", seed=2).splits["dev"]
    other = load(train=train, dev="10%", dev_seed=1).splits["dev"]
    assert again.lines.tolist() == dev.lines.tolist() != other.lines.tolist()
    lines = train.splitlines(keepends=True)
    shuffled = load(train="".join([lines[0], *reversed(lines[1:])]), dev="10%").splits["dev"]
    assert set(shuffled.hashes.tolist()) == set(dev.hashes.tolist())


def test_a_held_out_label_that_training_lacks_is_unseen(load):
    labels = [chr(97 + number) for number in range(10)] + ["a"] * 10
    loaded = load(train=rows(labels), dev="50%")
    assert set(loaded.target.labels) < set(labels)


def test_rows_of_one_text_cannot_be_held_out(load):
    assert "all texts are equal, so dev: 10% cannot hold out any" in error(
        load, train="text\tlabel\nx\ta\nx\tb\n", dev="10%"
    )


@pytest.mark.parametrize("share", ["0%", "100%", 0.1, "250 %"])
def test_a_share_without_rows_and_a_bare_number_are_refused(share):
    with pytest.raises(ValidationError, match="a share of the training rows between 0% and 100%, such as 10%"):
        TaskConfig(dev=share)


def test_a_label_unseen_in_training_counts_as_wrong_with_a_warning(load):
    loaded = load(train=rows("abab"), dev=rows("aczcb"))
    assert loaded.splits["dev"].gold["index"].tolist() == [0, UNSEEN, UNSEEN, UNSEEN, 1]
    assert warnings(loaded) == ["t dev: 3 rows have a label unseen in training, counted as wrong: 'c' (2), 'z' (1)"]


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_label_that_was_not_declared_is_an_error_in_every_split(load, split):
    texts = {"train": rows("ab"), "dev": rows("ab")} | {split: rows("abx")}
    assert f"{split}.tsv:4: label: found 'x', expected one of a, b" in error(load, labels=["a", "b"], **texts)
    declared = {name: text.replace("a\n", "0\n").replace("b\n", "4\n") for name, text in texts.items()}
    assert f"{split}.tsv:4: sentiment: found 'x', expected one of 0, 1, 2, 3, 4" in error(
        load, "sst", **{name: text.replace("text\tlabel", "sentence\tsentiment") for name, text in declared.items()}
    )


def test_declared_labels_keep_their_order_and_need_no_rows(load):
    loaded = load(train=rows(["low", "high"]), labels=["low", "middle", "high"])
    assert loaded.target.labels == ("low", "middle", "high")
    assert loaded.splits["train"].gold["index"].tolist() == [0, 2]


@pytest.mark.parametrize("labels", [[], ["a"], ["a", "a", "b"], ["a", " a"], ["a", ""]])
def test_labels_are_declared_as_two_or_more_different_names(load, labels):
    assert "tasks.t.labels: found" in error(load, train=rows("ab"), labels=labels)


def test_an_undeclared_label_is_skipped_and_counted_where_rows_may_be(load):
    loaded = load(train=rows("abx"), labels=["a", "b"], on_bad_row="skip")
    assert len(loaded.splits["train"]) == 2
    assert "1 row skipped" in warnings(loaded)[0]


@pytest.mark.parametrize(("kind", "same"), [("classification", "a"), ("regression", "2")])
def test_one_class_or_score_is_nothing_to_learn(load, kind, same):
    assert f'every row has the label "{same}"; expected at least two different ones' in error(
        load, kind, train=rows([same, same])
    )


def test_a_text_column_taken_for_the_label_is_noticed(load):
    loaded = load(train=rows(range(50)))
    assert warnings(loaded) == [
        't train: 50 rows have 50 classes; is "label" the right label column? If it is a number to predict, use kind: regression'
    ]
    assert warnings(load(train=rows(list(range(50)) * 8))) == []


def test_thirty_thousand_classes_take_no_longer_than_their_rows(load):
    loaded = load(train=rows(range(30_000)))  # seconds if labels were looked up one by one
    assert loaded.splits["train"].gold["index"][-1] == 29_999


# Scores


def test_integers_are_scores_too(load):
    loaded = load("regression", train=rows(["1", "2", "4"], "text\tscore\n"))
    assert loaded.splits["train"].gold["value"].dtype == np.float64
    assert (loaded.target.low, loaded.target.high) == (1.0, 4.0)
    assert loaded.target.mean == pytest.approx(7 / 3)
    assert loaded.target.std == pytest.approx(np.std([1, 2, 4]))


def test_scores_out_of_range_warn(load):
    loaded = load("regression", train=rows("125"), dev=rows("0369"), range=(1, 5))
    assert warnings(loaded) == ["t dev: 3 scores are outside [1, 5]; predictions never are"]


def test_a_range_and_labels_are_for_their_own_kinds(load):
    assert "tasks.t.range: this task predicts classes" in error(load, train=rows("ab"), range=(0, 5))
    assert "tasks.t.labels: this task predicts a score" in error(
        load, "regression", train=rows("12"), labels=["1", "2"]
    )


# Columns


@pytest.mark.parametrize(
    ("kind", "header", "texts", "label"),
    [
        ("classification", "id,text,label", ("text",), "label"),
        ("classification", "Sentence,Class", ("Sentence",), "Class"),
        ("regression", "score,review", ("review",), "score"),
        ("pair-classification", "premise,hypothesis,label", ("premise", "hypothesis"), "label"),
        ("pair-regression", "sentence_A,sentence_B,similarity", ("sentence_A", "sentence_B"), "similarity"),
        ("classification", "target,title,body", ("title",), "target"),
    ],
)
def test_usual_headers_are_understood(tmp_path, kind, header, texts, label):
    (tmp_path / "a.csv").write_text(header + "\n")
    columns = find_columns(FileSource(tmp_path / "a.csv"), TaskConfig(), registry.load("tasks", kind, "")("t"))
    assert (columns.texts, columns.label) == (texts, label)


def test_unusual_headers_are_asked_for(load):
    assert (
        "which column is the text: --set tasks.t.text=NAME and which is the label: --set tasks.t.label=NAME; the file has a, b"
        in error(load, train="a\tb\nx\ty\n")
    )
    assert "which column is the label: --set tasks.t.label=NAME" in error(load, train="text\tb\nx\ty\n")
    assert "which two columns are the texts" in error(load, "pair-regression", train="text\tscore\nx\t1\n")
    assert 'no column "txt" among text, label; did you mean "text"?' in error(load, train=rows("ab"), text=["txt"])


def test_the_number_of_texts_is_that_of_the_kind(load):
    assert "found a, b: expected one column (for two texts a row there are pair tasks)" in error(
        load, train=rows("ab"), text=["a", "b"]
    )
    assert "found a: expected two columns" in error(load, "pair-regression", train=rows("ab"), text=["a"])
    assert 'the column "label" is both a text and the label' in error(load, train=rows("ab"), text=["label"])


def test_columns_are_given_by_number_from_zero(load):
    loaded = load(train="a\tb\tc\n1\tx\tred\n2\ty\tblue\n", text=["1"], label="2")
    assert loaded.target.labels == ("blue", "red")
    assert list(loaded.splits["train"].texts()) == [("x",), ("y",)]


def test_a_file_without_a_header_starts_with_a_row(load):
    loaded = load(train="x\tred\ny\tblue\n", header=False, text=["0"], label="1")
    assert loaded.splits["train"].lines.tolist() == [1, 2]
    assert "the file has 0, 1" in error(load, train="x\tred\ny\tblue\n", header=False)


def test_jsonl_numbers_and_null_are_labels_and_none(load):
    lines = '{"text": "x", "label": 1}\n{"label": 0, "text": "y", "more": [1]}\n'
    assert load(train=lines, name="jsonl").splits["train"].gold["index"].tolist() == [1, 0]
    assert "train.jsonl:3: label is empty" in error(load, train=lines + '{"text": "z", "label": null}\n', name="jsonl")


def test_csv_texts_hold_commas_quotes_and_lines(load):
    loaded = load(train='text,label\n"red, ""blue""\nand green",a\nplain "as it is",b\n', name="csv")
    assert list(loaded.splits["train"].texts()) == [('red, "blue"\nand green',), ('plain "as it is"',)]
    assert loaded.splits["train"].place(1).endswith("train.csv:4")


# The CS224N files: an unnamed index column, tabs, floats as labels, a few malformed rows


def cs224n(folder, name, header, *lines):
    (folder / name).write_text("".join("\t".join(line) + "\n" for line in (("", "id", *header), *lines)))


def test_cs224n_pairs_have_an_index_float_labels_and_rows_to_skip(tmp_path, load):
    header = ("sentence1", "sentence2", "is_duplicate")
    cs224n(tmp_path, "quora-train.csv", header, ("0", "a1", "one ?", "two ?", "0.0"), ("4", "a2", "one ?", "", ""),
           ("7", "a3", '"a ""b"""', "three", "1.0"))  # fmt: skip
    cs224n(tmp_path, "quora-dev.csv", header, ("1", "b1", "four", "five", "1.0"), ("2", "b2", 'six"', "seven", ""))
    loaded = load("quora", train=None, data=str(tmp_path))
    assert [(name, len(split), split.gold["index"].tolist()) for name, split in loaded.splits.items()] == [
        ("train", 2, [0, 1]),
        ("dev", 1, [1]),
    ]
    assert list(loaded.splits["train"].texts()) == [("one ?", "two ?"), ('a "b"', "three")]
    assert [line.partition(" (")[0] for line in warnings(loaded)] == ["t train: 1 row skipped", "t dev: 1 row skipped"]
    assert "quora-train.csv:3: sentence2 is empty" in error(
        load, "quora", train=None, data=str(tmp_path), on_bad_row="error"
    )


def test_cs224n_sentences_may_lack_dev(tmp_path, load):
    cs224n(
        tmp_path, "ids-sst-train.csv", ("sentence", "sentiment"), ("0", "a", "fine .", "4"), ("1", "b", "awful .", "0")
    )
    loaded = load("sst", train=None, data=str(tmp_path))
    assert list(loaded.splits) == ["train"]
    assert loaded.target.labels[4] == "very positive"


def test_a_task_may_have_a_dev_file_of_its_own_beside_the_folder(tmp_path, load):
    cs224n(
        tmp_path, "ids-sst-train.csv", ("sentence", "sentiment"), ("0", "a", "fine .", "4"), ("1", "b", "awful .", "0")
    )
    loaded = load("sst", train=None, dev="sentence\tsentiment\nx\tvery positive\n", data=str(tmp_path))
    assert loaded.splits["dev"].gold["index"].tolist() == [4]


def test_a_folder_that_is_none_and_a_file_that_is_missing_are_named(tmp_path, load):
    assert "is not a folder" in error(load, "sst", train=None, data=str(tmp_path / "nope"))
    assert f"{tmp_path / 'ids-sst-train.csv'}: no such file" in error(load, "sst", train=None, data=str(tmp_path))
    assert "the task expects no file of its own" in error(load, train=None, data=str(tmp_path))


# Rows


def test_overlap_counts_dev_rows_whose_texts_are_in_training(load):
    loaded = load(train=rows("abab"), dev="text\tlabel\nrow 1\ta\nrow 1\tb\nnew\ta\n")
    assert overlap(loaded.splits["train"], loaded.splits["dev"]) == 2


def test_two_texts_are_not_one(load):
    header = "sentence1\tsentence2\tlabel\n"
    loaded = load("pair-classification", train=f"{header}ab\tc\tx\na\tbc\ty\n", dev=f"{header}a\tb c\tx\n")
    assert len(set(loaded.splits["train"].hashes.tolist())) == 2
    assert overlap(loaded.splits["train"], loaded.splits["dev"]) == 0


def test_max_rows_are_drawn_with_the_seed(load):
    text = rows("ab" * 50)

    def drawn(seed):
        return load(train=text, max_rows=10, seed=seed).splits["train"]

    first = drawn(1)
    assert len(first) == 10
    assert first.lines.tolist() == sorted(set(first.lines.tolist())) == drawn(1).lines.tolist()
    assert first.lines.tolist() != drawn(2).lines.tolist()
    assert [text for (text,) in first.texts()] == [f"row {line - 2}" for line in first.lines]
    assert len(load(train=text, max_rows=1000).splits["train"]) == 100


def test_content_changes_with_a_text_a_label_and_the_order(load):
    texts = [
        "text\tlabel\nx\ta\ny\tb\n",
        "text\tlabel\nx\ta\nz\tb\n",
        "text\tlabel\nx\tb\ny\ta\n",
        "text\tlabel\ny\tb\nx\ta\n",
    ]
    assert len({load(train=text).splits["train"].content for text in texts}) == 4
    assert len({load(train=texts[0]).splits["train"].content for _ in range(2)}) == 1


def test_a_file_that_shrinks_while_it_is_read_is_noticed(load, tmp_path):
    split = load(train=rows("abab")).splits["train"]
    (tmp_path / "train.tsv").write_text(rows("ab"))
    assert "changed while it was being read" in error(lambda: list(split.texts()))


def test_texts_are_not_kept(load):
    split = load(train=rows("ab")).splits["train"]
    assert not any(isinstance(value, list) for value in vars(split).values())


def test_a_text_file_has_one_column_and_no_label(tmp_path):
    (tmp_path / "a.txt").write_text("x\n")
    source, task = FileSource(tmp_path / "a.txt"), registry.load("tasks", "classification", "")("t")
    assert "which column is the label" in error(find_columns, source, TaskConfig(), task)
    assert find_columns(source, TaskConfig(), task, labeled=False).texts == ("text",)
