"""Which rows of a source a split has: filters by column, several evaluation sets, and groups that are held out as a whole."""

from itertools import pairwise

import pytest

from mtlcli import registry
from mtlcli.config.schema import TaskConfig
from mtlcli.data.splits import LoadedTask, load_task, overlap
from mtlcli.errors import MtlError


@pytest.fixture
def load(tmp_path):
    """Writes train and dev and loads a task; `name` is the extension, and dev may be a share or several sets."""

    def _load(kind="classification", train=None, dev=None, name="tsv", data=None, **config) -> LoadedTask:
        for split, text in (("train", train), ("dev", dev)):
            if isinstance(text, dict) or (text is not None and text.endswith("%")):
                config[split] = text
            elif text is not None:
                path = tmp_path / f"{split}.{name}"
                path.write_text(text)
                config[split] = str(path)
        task = registry.load("tasks", kind, "test")("t")
        return load_task("t", TaskConfig(**config), task, data=data, sample=False, seed=1)

    return _load


def error(call, *arguments, **more) -> str:
    with pytest.raises(MtlError) as caught:
        call(*arguments, **more)
    (line,) = caught.value.lines
    return line


def notes(loaded: LoadedTask) -> list[str]:
    return [line for split in loaded.splits.values() for line in split.notes]


def rows(labels, header="text\tlabel\n") -> str:
    return header + "".join(f"row {number}\t{label}\n" for number, label in enumerate(labels))


# Groups held out as a whole


def documents(count: int, labels: str = "ab") -> str:
    """A header, and rows of documents d0, d1, ... of 1, 2, ... rows."""
    lines = [f"text {doc} {row}\t{labels[row % len(labels)]}\td{doc}" for doc in range(count) for row in range(doc + 1)]
    return "text\tlabel\tdoc\n" + "\n".join(lines) + "\n"


def test_a_held_out_share_keeps_groups_whole(load):
    loaded = load(train=documents(20), dev="20%", group="doc")
    train, dev = loaded.splits["train"], loaded.splits["dev"]
    assert len(train) + len(dev) == 210 and 38 <= len(dev) <= 46  # 42 rows are 20 %
    documents_of = [{texts[0].split()[1] for texts in split.texts()} for split in (train, dev)]
    assert not documents_of[0] & documents_of[1]
    assert dev.groups.names == tuple(sorted(f"d{number}" for number in documents_of[1])) and train.groups is None
    header, *lines = documents(20).splitlines(keepends=True)
    shuffled = load(train="".join([header, *reversed(lines)]), dev="20%", group="doc").splits["dev"]
    assert set(shuffled.hashes.tolist()) == set(dev.hashes.tolist())
    other = load(train=documents(20), dev="20%", group="doc", dev_seed=1).splits["dev"]
    assert set(other.hashes.tolist()) != set(dev.hashes.tolist())


def test_a_text_in_two_groups_keeps_both_on_one_side(load):
    lines = [f"text {doc} {row}\t{'ab'[row % 2]}\td{doc}\n" for doc in range(8) for row in range(5)]
    shared = [f"shared {doc // 2}\ta\td{doc}\n" for doc in range(8)]  # d0 with d1, d2 with d3, ...
    loaded = load(train="text\tlabel\tdoc\n" + "".join(lines + shared), dev="25%", group="doc")
    assert len(loaded.splits["dev"]) == 12 and overlap(loaded.splits["train"], loaded.splits["dev"]) == 0
    assert len(loaded.splits["dev"].groups) == 2


def test_rows_without_a_group_are_held_out_one_by_one(load):
    train = "text\tlabel\tdoc\n" + "".join(f"text {row}\t{'ab'[row % 2]}\t\n" for row in range(40))
    dev = load(train=train, dev="10%", group="doc").splits["dev"]
    assert len(dev) == len(dev.groups) == 4


def test_one_large_group_does_not_end_up_in_dev(load):
    large = "".join(f"large {row}\t{'ab'[row % 2]}\tlarge\n" for row in range(300))
    small = "".join(f"small {row}\t{'ab'[row % 2]}\ts{row}\n" for row in range(100))
    for seed in range(5):
        dev = load(train=f"text\tlabel\tdoc\n{large}{small}", dev="10%", group="doc", dev_seed=seed).splits["dev"]
        assert len(dev) == 40


def test_one_group_cannot_be_held_out(load):
    train = "text\tlabel\tdoc\nx\ta\td\ny\tb\td\n"
    assert "all rows have the doc or the text of another one, so dev: 10% cannot hold out any" in error(
        load, train=train, dev="10%", group="doc"
    )


# Groups


def test_groups_are_read_where_rows_are_evaluated(load):
    dev = "text\tlabel\tdoc\nx\ta\t2\ny\tb\t\nz\ta\t 1 \nw\tb\t2\n"
    loaded = load(train=rows("ab"), dev=dev, group="doc")
    assert [loaded.splits["dev"].groups.name(row) for row in range(4)] == ["2", "", "1", "2"]
    assert loaded.splits["train"].groups is None  # whose file has no such column


def test_a_column_of_groups_that_is_not_there_is_one_line(load):
    assert error(load, train=rows("ab"), dev=rows("ab"), group="dok").startswith("tasks.t.group: ")
    assert 'no column "dok" among text, label' in error(load, train=rows("ab"), dev=rows("ab"), group="dok")


def test_groups_and_filters_of_words_are_refused(load, tmp_path):
    conll = "EU B-ORG d1\nrejects O d1\n\nParis B-LOC d2\nwaits O d2\n"
    for key, problem in (("group", "tasks.t.group: "), ("where", "tasks.t.where: ")):
        value = "2" if key == "group" else {"2": "d1"}
        line = error(load, "tagging", train=conll, dev=conll, name="conll", label="1", encoding="words", **{key: value})
        assert line.startswith(problem) and line.endswith(
            "a value for each word, none for the sentence; expected document, or use JSONL"
        )


def test_sentences_of_jsonl_have_groups(load):
    lines = [f'{{"words": ["EU", "waits"], "tags": ["B-ORG", "O"], "document": "d{row // 2}"}}\n' for row in range(6)]
    loaded = load("tagging", train="".join(lines), dev="".join(lines), name="jsonl", encoding="words", group="document")
    assert loaded.splits["dev"].groups.codes.tolist() == [0, 0, 1, 1, 2, 2]


# Filters


LANGUAGES = "text\tlabel\tlanguage\tyear\n" + "".join(
    f"row {number}\t{'ab'[number // 2 % 2]}\t{('de', 'en', 'fr')[number % 3]}\t{2018 + number % 2}\n"
    for number in range(30)
)


def test_a_filter_keeps_the_rows_of_its_values_in_every_split(load):
    loaded = load(train=LANGUAGES, dev=LANGUAGES, where={"language": ["de", "fr"]})
    assert [len(split) for split in loaded.splits.values()] == [20, 20]
    assert loaded.splits["train"].lines.tolist() == [line for line in range(2, 32) if line % 3 != 0]
    assert list(loaded.splits["dev"].texts())[:3] == [("row 0",), ("row 2",), ("row 3",)]
    assert notes(loaded) == [
        f't {name}: 10 rows of {split.source.name} dropped; kept where language is "de" or "fr"'
        for name, split in loaded.splits.items()
    ]


def test_a_row_must_fit_every_column_of_a_filter(load):
    loaded = load(train=LANGUAGES, where={"language": "de", "year": 2018})
    assert loaded.splits["train"].lines.tolist() == [line for line in range(2, 32) if (line - 2) % 6 == 0]


@pytest.mark.parametrize("name", ["jsonl", "csv"])
def test_a_filter_reads_every_format(load, name):
    if name == "csv":
        train = LANGUAGES.replace("\t", ",")
    else:
        train = "".join(
            f'{{"text": "row {number}", "label": "{"ab"[number % 2]}", "language": "{("de", "en", "fr")[number % 3]}"}}\n'
            for number in range(30)
        )
    loaded = load(train=train, name=name, where={"language": "en"})
    assert list(loaded.splits["train"].texts())[:2] == [("row 1",), ("row 4",)]


def test_rows_that_a_filter_drops_may_be_bad(load):
    train = rows("ab", "text\tlabel\tlanguage\n").replace("\ta\n", "\ta\tde\n").replace("\tb\n", "\tb\tde\n")
    loaded = load(train=train + "no label\t\ten\n", where={"language": "de"})
    assert len(loaded.splits["train"]) == 2


def test_a_share_is_held_out_of_the_rows_that_are_kept(load):
    loaded = load(train=LANGUAGES, dev="20%", where={"language": "de"})
    assert [len(split) for split in loaded.splits.values()] == [8, 2]
    assert sum("dropped" in note for note in notes(loaded)) == 1


def test_a_filter_without_rows_says_what_the_column_holds(load):
    path = load(train=LANGUAGES, dev=LANGUAGES).splits["train"].source.name
    assert error(load, train=LANGUAGES, where={"language": "sw"}) == (
        f'tasks.t.where: {path} has no row where language is "sw"; in its 30 rows language is "de", "en", "fr"'
    )
    dev = LANGUAGES.replace("\tde\t", "\ten\t")  # an error for dev too, where an empty file is a warning
    assert "dev.tsv has no row where" in error(load, train=LANGUAGES, dev=dev, where={"language": "de"})


def test_a_filter_by_a_column_that_is_not_there_is_one_line(load):
    assert error(load, train=LANGUAGES, where={"languge": "de"}).endswith(
        'no column "languge" among text, label, language, year; did you mean "language"?'
    )


# Several evaluation sets


def test_each_set_has_rows_of_its_own(load, tmp_path):
    (tmp_path / "other.tsv").write_text(rows("abab"))
    (tmp_path / "languages.tsv").write_text(LANGUAGES)
    languages = str(tmp_path / "languages.tsv")
    dev = {"de": {"file": languages, "where": {"language": "de"}}, "other": str(tmp_path / "other.tsv")}
    loaded = load(train=rows("ab"), dev=dev)
    assert {name: len(split) for name, split in loaded.splits.items()} == {"train": 2, "dev.de": 10, "dev.other": 4}
    assert list(loaded.dev) == ["dev.de", "dev.other"]
    assert notes(loaded) == [f't dev de: 20 rows of {languages} dropped; kept where language is "de"']


def test_the_filter_of_a_set_replaces_that_of_the_task_by_column(load, tmp_path):
    (tmp_path / "languages.tsv").write_text(LANGUAGES)
    languages = str(tmp_path / "languages.tsv")
    dev = {"fr": {"file": languages, "where": {"language": "fr"}}, "same": languages}
    loaded = load(train=LANGUAGES, where={"language": "de", "year": 2018}, dev=dev)
    assert {name: len(split) for name, split in loaded.splits.items()} == {"train": 5, "dev.fr": 5, "dev.same": 5}


def test_sets_without_files_are_parts_of_the_tasks_own_rows(load, tmp_path):
    header = "id\tsentence\tsentiment\tkind\n"
    for split, count in (("train", 10), ("dev", 8)):
        lines = (f"{i}\ttext {i}\t{i % 5}\t{'ab'[i % 2]}\n" for i in range(count))
        (tmp_path / f"ids-sst-{split}.csv").write_text(header + "".join(lines))
    sets = {"a": {"where": {"kind": "a"}}, "b": {"where": {"kind": "b"}}}
    loaded = load("sst", train=None, data=str(tmp_path), dev=sets)
    assert {name: len(split) for name, split in loaded.splits.items()} == {"train": 10, "dev.a": 4, "dev.b": 4}


@pytest.mark.parametrize(
    ("dev", "problem"),
    [
        (
            {"a": {"where": {"language": "de"}}},
            "tasks.t.dev.a: the task has no dev rows of its own; name the set's file",
        ),
        ({"a": {"file": "TRAIN", "where": {"language": "sw"}}}, "tasks.t.dev.a.where: TRAIN has no row where language"),
        ({"a": {"file": "TRAIN", "where": {"lang": "de"}}}, 'tasks.t.dev.a.where: TRAIN: no column "lang" among'),
        ({"a": "EMPTY"}, "EMPTY: no usable row for tasks.t (dev a)"),
    ],
)
def test_a_set_without_rows_is_an_error(load, tmp_path, dev, problem):
    (tmp_path / "empty.tsv").write_text("text\tlabel\n")
    places = {"TRAIN": str(tmp_path / "train.tsv"), "EMPTY": str(tmp_path / "empty.tsv")}
    for word, path in places.items():
        problem = problem.replace(word, path)
        for name, part in dev.items():
            if part == word:
                dev = {name: path}
            elif isinstance(part, dict) and part.get("file") == word:
                dev = {name: part | {"file": path}}
    assert problem in error(load, train=LANGUAGES, dev=dev)


# Documents of CoNLL files


MARKED = "-DOCSTART- -X- O\n\nEU B-ORG x\nrejects O x\n\nOslo B-LOC x\n\n-DOCSTART- -X- O\nParis B-LOC x\nwaits O x\n"


def groups_of(loaded: LoadedTask) -> list[str]:
    split = loaded.splits["dev"]
    return [split.groups.name(row) for row in range(len(split))]


def test_sentences_of_a_conll_file_are_grouped_by_the_marks_of_documents(load):
    loaded = load("tagging", train=MARKED, dev=MARKED, name="conll", label="1", encoding="words", group="document")
    assert groups_of(loaded) == ["dev.conll 1", "dev.conll 1", "dev.conll 2"]


def test_sentences_before_the_first_mark_are_of_no_document(load):
    dev = "Oslo B-LOC x\n\nBonn B-LOC x\n\n-DOCSTART- -X- O\n\nParis B-LOC x\n"
    loaded = load("tagging", train=MARKED, dev=dev, name="conll", label="1", encoding="words", group="document")
    assert groups_of(loaded) == ["", "", "dev.conll 1"]
    assert len(loaded.splits["dev"].groups) == 3


def conllu(*sentences: tuple[str, str]) -> str:
    return "".join(f"{comments}1\t{word}\t_\tNOUN\t_\t_\t_\t_\t_\t_\n\n" for comments, word in sentences)


def test_documents_of_conll_u_have_the_id_of_their_comment(load):
    text = conllu(
        ("# newdoc id = w 7\n# sent_id = 1\n", "a"), ("# sent_id = 2\n", "b"), ("# newdoc\n", "c"), ("# newdocs\n", "d")
    )
    train = conllu(("", "x")) + conllu(("", "y")).replace("NOUN", "VERB")
    loaded = load("tagging", train=train, dev=text, name="conllu", label="UPOS", encoding="words", group="document")
    assert groups_of(loaded) == ["w 7", "w 7", "dev.conllu 2", "dev.conllu 2"]


def test_a_share_holds_out_whole_documents(load):
    documents_of_two = "".join(
        f"-DOCSTART- -X- O\n\nword{number} {tag} x\n\nmore{number} O x\n\n"
        for number, tag in enumerate(["B-LOC", "B-ORG"] * 10)
    )
    loaded = load(
        "tagging", train=documents_of_two, dev="20%", name="conll", label="1", encoding="words", group="document"
    )
    names = groups_of(loaded)
    assert len(names) == 8 and all(names.count(name) == 2 for name in names)


def test_a_file_without_marks_has_no_documents(load):
    plain = "EU B-ORG x\n\nParis B-LOC x\n"
    line = error(load, "tagging", train=MARKED, dev=plain, name="conll", label="1", encoding="words", group="document")
    assert line.startswith("tasks.t.group: ")
    assert line.endswith('no column "document": the file marks no documents (lines -DOCSTART-)')


# Parts of a file


def parts(*bounds: float) -> dict:
    return {f"p{number}": {"part": [low, high]} for number, (low, high) in enumerate(pairwise(bounds))}


def in_sets(loaded: LoadedTask) -> list[list[str]]:
    return [[texts[0] for texts in loaded.splits[name].texts()] for name in loaded.splits if name.startswith("dev.")]


def divided(load, tmp_path, text: str, *bounds: float, **config) -> list[list[str]]:
    (tmp_path / "all.tsv").write_text(text)
    dev = {name: {"file": str(tmp_path / "all.tsv"), **part} for name, part in parts(*bounds).items()}
    return in_sets(load(train=rows("abab"), dev=dev, **config))


def test_parts_divide_the_rows_of_a_file_whatever_their_order(load, tmp_path):
    lines = rows("ab" * 20).splitlines(keepends=True)
    first, second, third = divided(load, tmp_path, "".join(lines), 0, 0.25, 0.5, 1)
    assert [len(first), len(second), len(third)] == [10, 10, 20]
    assert sorted(first + second + third) == sorted(line.split("\t")[0] for line in lines[1:])
    again = divided(load, tmp_path, "".join([lines[0], *reversed(lines[1:])]), 0, 0.25, 0.5, 1)
    assert [sorted(part) for part in again] == [sorted(first), sorted(second), sorted(third)]


def test_rows_with_equal_texts_are_in_one_part(load, tmp_path):
    halves = divided(load, tmp_path, rows("ab" * 10) + rows("ba" * 10, header=""), 0, 0.5, 1)
    assert [len(half) for half in halves] == [20, 20]
    assert not {*halves[0]} & {*halves[1]}


def test_groups_are_in_one_part(load, tmp_path):
    (tmp_path / "groups.tsv").write_text(documents(20))
    dev = {name: {"file": str(tmp_path / "groups.tsv"), **part} for name, part in parts(0, 0.5, 1).items()}
    loaded = load(train=documents(3), dev=dev, group="doc")
    documents_of = [{text.split()[1] for text in half} for half in in_sets(loaded)]
    assert not documents_of[0] & documents_of[1] and len(documents_of[0] | documents_of[1]) == 20


@pytest.mark.parametrize("part", [[0.5, 0.5], [0.6, 0.2], [0, 1.5], [0.5]])
def test_a_part_is_two_rising_shares(part):
    with pytest.raises(ValueError, match=r"rising shares|Field required"):
        TaskConfig(dev={"a": {"file": "x.tsv", "part": part}})


def test_three_parts_have_no_group_in_common(load, tmp_path):
    """Sizes at which choosing the rows up to each share by itself would put documents into two parts."""
    (tmp_path / "groups.tsv").write_text(documents(23))
    dev = {name: {"file": str(tmp_path / "groups.tsv"), **part} for name, part in parts(0, 1 / 3, 2 / 3, 1).items()}
    loaded = load(train=documents(3), dev=dev, group="doc")
    documents_of = [{text.split()[1] for text in part} for part in in_sets(loaded)]
    assert sum(map(len, documents_of)) == len(set().union(*documents_of)) == 23
