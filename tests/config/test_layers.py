"""Recipes are read strictly: what is written is what is meant, and every mistake has its file and line."""

import math

import pytest

from mtlcli.config.layers import Layer, dump, merge, parse_assignment, read_recipe
from mtlcli.errors import MtlError


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe and reads it."""

    def _recipe(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return read_recipe(path)

    return _recipe


def error(call, *arguments):
    with pytest.raises(MtlError) as caught:
        call(*arguments)
    return str(caught.value)[max(0, str(caught.value).find("recipe.yaml:")) :]  # without the folder


def no_choice(path):
    return None


# Scalars


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-5", 1e-5),
        ("5E-5", 5e-5),
        ("3", 3),
        ("-0.5", -0.5),
        (".5", 0.5),
        ("1.", 1.0),
        (".inf", math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("007", "007"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("'1e-5'", "1e-5"),
    ],
)
def test_a_scalar_is_what_it_looks_like(recipe, written, value):
    assert recipe(f"key: {written}").values == {"key": value}


def test_labels_and_columns_are_texts_as_they_are_spelled(recipe):
    found = recipe("tasks: {t: {labels: [true, no, 007, 1.0, 1e-5, null], text: [1, 2.50], label: 0}}").values
    assert found["tasks"]["t"] == {
        "labels": ["true", "no", "007", "1.0", "1e-5", "null"],
        "text": ["1", "2.50"],
        "label": "0",
    }


def test_no_label_column_is_no_text(recipe):
    assert recipe("tasks: {t: {label: null, labels: }}").values["tasks"]["t"] == {"label": None, "labels": None}


def test_keys_are_texts_as_they_are_spelled(recipe):
    assert list(recipe("{1: a, 1e-5: a, true: a, null: a, 1.50: a}").values) == ["1", "1e-5", "true", "null", "1.50"]


# Places


def test_every_key_knows_its_line(recipe):
    layer = recipe("data: x\ntasks:\n  sst:\n    head:\n      name: linear\n")
    lines = {path: place.rpartition(":")[2] for path, place in layer.places.items()}
    assert lines[("data",)] == "1"
    assert lines[("tasks", "sst", "head", "name")] == "5"


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("data: a\ntasks: {}\ndata: b", 3, "`data` is set twice"),
        ("tasks:\n  sst: {}\n  sst: {}", 3, "`sst` is set twice"),
        ("tasks: [a, {b: 1, b: 2}]", 1, "`b` is set twice"),
        ("tasks:\n\tsst: {}", 2, "indent with spaces, not with tabs"),
        ("tasks: {sst: {}", 1, "not valid YAML"),
        ("tasks: {}\n--- \ntasks: {}", 2, "another document"),
        ("- sst\n- quora", 1, "not a recipe: expected keys such as `tasks:`, but the file begins with '- sst'"),
        ("just text", 1, "not a recipe: expected keys such as `tasks:`, but the file begins with 'just text'"),
        ("? [a, b]\n: 1", 1, "a key is a list or a mapping"),
        ("a:\n  seed: !!int abc", 2, "'abc' does not fit its tag !!int"),
        ("a: !!timestamp soon", 1, "'soon' does not fit its tag !!timestamp"),
        ("a: !!timestamp 2020-01-01", 1, "the tag !!timestamp is not supported"),
        ("a: !!bool maybe", 1, "'maybe' does not fit its tag !!bool"),
        ("a: !!float 1:30", 1, "'1:30' does not fit its tag !!float"),
        ("a: !!binary aGVsbG8=", 1, "the tag !!binary is not supported"),
        ("a: 1\nb: 'x' \nc: \"a\\0b\"", 3, "contains a NUL byte"),
        ('"a\\0b": 1', 1, "contains a NUL byte"),
        ('data: "\\ud800"', 1, "half of a surrogate pair"),
        ('tasks: {a: {label: "\\udfff"}}', 1, "half of a surrogate pair"),
        ("a: !!python/object/apply:os.getcwd []", 1, None),
        ("a: !!python/name:os.getcwd x", 1, "python"),
    ],
)
def test_a_mistake_has_its_line(recipe, text, line, expected):
    if expected is None:  # a tag on a list or mapping is not looked at, and runs nothing
        assert recipe(text).values == {"a": []}
        return
    found = error(recipe, text)
    assert found.startswith(f"recipe.yaml:{line}: ")
    assert expected in found


@pytest.mark.parametrize(
    "rows", ["text,label\n" + "a row,1\n" * 500, 'text,label\n"a: ""b""",1\n', '{"text": "a"}\n{"text": "b"}\n']
)
def test_a_data_file_in_the_place_of_a_recipe_is_one_short_line(tmp_path, rows):
    path = tmp_path / "tickets.csv"
    path.write_text(rows, encoding="utf-8")
    with pytest.raises(MtlError) as caught:
        read_recipe(path)
    (line,) = caught.value.lines
    assert line.startswith(f"{path}:1: not a recipe: expected keys such as `tasks:`, but the file begins with ")
    assert line.endswith(f"to train on this file: --task NAME={path}")
    assert len(line) < 200 + 2 * len(str(path))


def test_a_recipe_file_that_cannot_exist_is_one_line(tmp_path):
    for name in ("a\0b.yaml", "a" * 5000 + ".yaml"):
        with pytest.raises(MtlError, match="cannot be read as a recipe file") as caught:
            read_recipe(tmp_path / name)
        assert len(str(caught.value)) < 200


def test_a_recipe_within_itself_is_refused(recipe):
    assert "contains itself" in error(recipe, "a: &x {b: *x}")


def test_a_section_repeated_by_an_alias_may_build_on_another(recipe):
    found = recipe("tasks: {a: &a {max_rows: 5}, b: &b {<<: *a, max_rows: 6, header: true}, c: *b}").values["tasks"]
    assert found["b"] == found["c"] == {"max_rows": 6, "header": True}


@pytest.mark.parametrize("text", ["", "# nothing\n", "\ufeff", "---\n"])
def test_a_recipe_may_say_nothing(recipe, text):
    assert recipe(text).values == {}


def test_a_file_that_is_not_there_names_the_nearest(tmp_path):
    (tmp_path / "recipe.yaml").write_text("")
    assert error(read_recipe, tmp_path / "recpie.yaml").endswith('did you mean "recipe.yaml"?')


def test_a_folder_and_a_file_of_bytes_are_no_recipes(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"a: \xff")
    assert "cannot be read as a recipe" in error(read_recipe, tmp_path)
    assert "not a UTF-8 text file" in error(read_recipe, tmp_path / "bytes.yaml")


# --set


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("training.epochs=2", ("training", "epochs"), "2"),
        ("optimizer.lr = 1e-5", ("optimizer", "lr"), "1e-5"),
        ("tasks.p.text=[q1, q2]", ("tasks", "p", "text"), ["q1", "q2"]),
        ("tasks.p.labels=[007, no]", ("tasks", "p", "labels"), ["007", "no"]),
        ("balancer={name: equal}", ("balancer",), {"name": "equal"}),
        ("training.patience=null", ("training", "patience"), None),
        ("encoder=a=b", ("encoder",), "a=b"),
        ("data=", ("data",), ""),
    ],
)
def test_an_assignment_is_a_path_and_a_value(text, path, value):
    assert parse_assignment(text) == (path, value)


@pytest.mark.parametrize("text", ["training.epochs", "=3", "tasks={a: 1, a: 2}", "tasks=[a"])
def test_an_assignment_that_is_none_is_refused(text):
    assert "--set " in error(parse_assignment, text)


def test_a_pasted_long_dash_is_explained():
    assert "a long dash was pasted" in error(parse_assignment, "\u2013\u2013epochs 3")


def test_putting_below_a_bare_name_keeps_the_name():
    layer = Layer({"encoder": "tiny"})
    layer.put(("encoder", "dim"), 8, "--set encoder.dim")
    assert layer.values == {"encoder": {"name": "tiny", "dim": 8}}


# Merging


def test_above_wins_key_by_key():
    assert merge({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 5}, "c": 6}, no_choice) == {
        "a": {"x": 1, "y": 5},
        "b": 3,
        "c": 6,
    }


def test_another_plugin_drops_the_options_of_the_one_below():
    def kept(path):
        return ("pooling",) if path == ("encoder",) else None

    below = {"encoder": {"name": "a", "dim": 8, "pooling": "cls"}}
    assert merge(below, {"encoder": "b"}, kept) == {"encoder": {"name": "b", "pooling": "cls"}}
    assert merge(below, {"encoder": {"name": "a", "layers": 2}}, kept) == {
        "encoder": {"name": "a", "dim": 8, "pooling": "cls", "layers": 2}
    }


def test_something_called_name_is_no_plugin():
    assert merge({"tasks": {"name": {"a": 1}, "x": {}}}, {"tasks": {"name": {"b": 2}}}, no_choice) == {
        "tasks": {"name": {"a": 1, "b": 2}, "x": {}}
    }


def test_an_item_of_a_list_is_changed_by_its_number():
    below = {"regularizers": [{"name": "a", "weight": 1}, "b"]}
    assert merge(below, {"regularizers": {"1": {"weight": 3}}}, no_choice) == {
        "regularizers": [{"name": "a", "weight": 1}, {"name": "b", "weight": 3}]
    }


def test_the_only_item_of_a_list_may_stand_without_brackets():
    assert merge({"regularizers": "a"}, {"regularizers": {"0": {"weight": 3}}}, no_choice) == {
        "regularizers": [{"name": "a", "weight": 3}]
    }


def test_merging_changes_neither_side():
    below, above = {"a": {"x": 1}}, {"a": {"y": 2}, "b": {"z": 3}}
    found = merge(below, above, no_choice)
    found["b"]["z"] = 4
    assert (below, above) == ({"a": {"x": 1}}, {"a": {"y": 2}, "b": {"z": 3}})


def test_what_is_dumped_reads_back_as_it_was(recipe):
    values = {
        "texts": [
            "no",
            "1e-5",
            "1e5",
            "007",
            "null",
            "~",
            "",
            " a ",
            "12:30",
            "2024-01-01",
            "a: b",
            "#",
            "- x",
            "<<",
            "über",
            "line\nline",
            "=",
        ],
        "numbers": [1e-5, 5e-05, 1.0, -3, 0, math.inf, 1e300],
        "others": {"yes": True, "1": None, "nothing": {}, "none": []},
    }
    assert recipe(dump(values)).values == values


def test_spellings_of_labels_are_texts_as_they_are_written(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("tasks:\n  t:\n    aliases: {TRUE: true, 1e5: null, 007: '7'}\n    no_label: [-, -1, null]\n")
    section = read_recipe(path).values["tasks"]["t"]
    assert section == {"aliases": {"TRUE": "true", "1e5": "null", "007": "7"}, "no_label": ["-", "-1", "null"]}
