"""Sentences of CoNLL columns and CoNLL-U, with the oddities of published files."""

from pathlib import Path

import pytest

from mtlcli.data.readers import BadRows, FileSource, format_of, iterate
from mtlcli.errors import MtlError


def rows(path: Path, text: str, *columns: str, encoding: str = "utf-8"):
    path.write_bytes(text.encode(encoding))
    source = FileSource(path)
    keys = [source.column(column, nested=True) for column in columns]
    return [(row.line, *(row.original[key] for key in keys)) for row in source]


def test_a_blank_line_of_tabs_ends_a_sentence_and_a_hash_is_a_word(tmp_path):
    text = "#tag\tO\nEU\tB-ORG\n\t\nsays\tO\n\n \nno\tO"
    assert rows(tmp_path / "a.conll", text, "0", "-1") == [
        (1, ["#tag", "EU"], ["O", "B-ORG"]),
        (4, ["says"], ["O"]),
        (7, ["no"], ["O"]),
    ]


def test_columns_between_spaces_and_marks_of_documents(tmp_path):
    text = "-DOCSTART- -X- O\n\nEU  NNP B-ORG\nrejects VBZ O\r\n\n-DOCSTART- -X- O\nGerman JJ B-MISC\n"
    assert rows(tmp_path / "a.iob", text, "0", "1", "-1") == [
        (3, ["EU", "rejects"], ["NNP", "VBZ"], ["B-ORG", "O"]),
        (7, ["German"], ["JJ"], ["B-MISC"]),
    ]


def test_other_white_space_and_invisible_characters_are_part_of_a_word(tmp_path):
    text = "a\u00a0b\tO\n\u200b\tO\n\ufe0f\tO\n"
    assert rows(tmp_path / "a.conll", text, "0") == [(1, ["a\u00a0b", "\u200b", "\ufe0f"])]


def test_a_line_of_another_length_or_without_a_word_is_named(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("a\tx\tO\n\nb\tO\n\n\tx\tO\nc\tx\tO\n")
    with pytest.raises(MtlError) as caught:
        list(FileSource(path))
    assert caught.value.lines == (
        f'{path}:3: expected 3 columns as on line 1, found 2 (word "b")',
        f"{path}:5: the word is empty",
    )


CONLLU = """# sent_id = 1
# text = I don't
1\tI\tI\tPRON\tPRP\tCase=Nom|Number=Sing\t3\tnsubj\t_\tSpaceAfter=No
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\tVBP\t_\t0\troot\t_\t_
3\tn't\tnot\t_\tRB\t_\t2\tadvmod\t_\t_
3.1\tgo\tgo\tVERB\t_\t_\t_\t_\t_\t_

"""


def test_ranges_and_empty_nodes_are_no_words_and_an_underscore_is_no_label_where_it_is_no_value(tmp_path):
    columns = ("FORM", "UPOS", "FEATS", "4", "MISC.SpaceAfter", "FEATS.Number")
    assert rows(tmp_path / "a.conllu", CONLLU, *columns) == [
        (1, ["I", "do", "n't"], ["PRON", "AUX", None], ["Case=Nom|Number=Sing", "_", "_"], ["PRP", "VBP", "RB"],
         ["No", None, None], ["Sing", None, None]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("3\tgo\t_\t_\t_\t_\t_\t_\t_\t_", "expected id 2, found 3"),
        ("2 go", "expected 10 columns with tabs between them, found 1"),
    ],
)
def test_ids_and_columns_of_conllu_are_checked(tmp_path, line, problem):
    path = tmp_path / "a.conllu"
    path.write_text(f"# text = I go\n1\tI{chr(9)}_" + "\t_" * 7 + f"\n{line}\n")
    with pytest.raises(MtlError) as caught:
        list(FileSource(path))
    assert caught.value.lines == (f"{path}:3: {problem}",)


def test_a_name_of_conllu_needs_its_ten_columns(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("EU\tO\n")
    with pytest.raises(MtlError, match=r'column "UPOS" needs a CoNLL-U file \(10 columns\); this one has 2 columns'):
        FileSource(path).column("UPOS", nested=True)


def test_a_line_in_another_encoding_is_reported_with_its_line(tmp_path):
    path, bad = tmp_path / "a.conll", BadRows()
    path.write_bytes(b"a\tO\n\nb\tO\ncaf\xe9\tO\n")
    assert [row.line for row in iterate(FileSource(path), bad)] == [1]
    assert bad.messages == [f"{path}:4: byte 0xe9 is not UTF-8 (é in Latin-1 or Windows-1252); save the file as UTF-8"]


def test_a_stream_of_sentences_is_read_sentence_by_sentence(tmp_path):
    with (tmp_path / "a").open("w+b") as stream:
        stream.write(b"EU\tO\n\nGo\tO\nup\tO\n")
        stream.seek(0)
        source = FileSource("<stdin>", format=format_of("-", name="conll"), stream=stream)
        assert [row.values["0"] for row in source] == ["EU", "Go up"]
