"""Files become rows of text or a line that says what is wrong, and nothing in between."""

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest

from conftest import real_data
from mtlcli.data.bad_rows import SHOWN, BadRows
from mtlcli.data.formats import Format, format_of
from mtlcli.data.readers import FileSource, TextRow, iterate
from mtlcli.data.records import json_text
from mtlcli.errors import MtlError


@pytest.fixture
def write(tmp_path):
    """Writes text or bytes to a file and returns its source; text is written as it is, without newline translation."""

    def _write(name, content, **options):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return FileSource(path, **options)

    return _write


def values(source):
    return [row.values for row in source]


def messages(source):
    """What iteration reports, each line behind the file's name."""
    bad = BadRows()
    rows = list(iterate(source, bad))
    return rows, [line.removeprefix(f"{source.name}:") for line in bad.lines()]


def error(source_or_call):
    with pytest.raises(MtlError) as caught:
        source_or_call() if callable(source_or_call) else list(source_or_call)
    return str(caught.value)


# Formats


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", Format("csv", "", True)),
        ("a.CSV", Format("csv", "", True)),
        ("a.tsv", Format("tsv", "\t", False)),
        ("a.jsonl", Format("jsonl")),
        ("a.ndjson", Format("jsonl")),
        ("a.json", Format("json")),
        ("a.csv.gz", Format("csv", "", True, gzip=True)),
        ("a.TSV.GZ", Format("tsv", "\t", gzip=True)),
        ("a.txt.gz", Format("text", gzip=True)),
        ("a.parquet", Format("parquet")),
        ("a.txt", Format("text")),
        ("a.review", Format("text")),
        ("a", Format("text")),
    ],
)
def test_the_extension_decides_the_format(name, expected):
    assert format_of(name) == expected


def test_a_named_format_wins_over_the_extension(write):
    source = write("rows.dat", "text\tlabel\na\t1\n", format=format_of("rows.dat", name="tsv"))
    assert values(source) == [{"text": "a", "label": "1"}]


def test_a_tsv_reads_a_quote_as_a_plain_character(write):
    source = write("a.tsv", 'text\tlabel\n"an open quote\t1\nand "two" here"\t0\n')
    assert values(source) == [{"text": '"an open quote', "label": "1"}, {"text": 'and "two" here"', "label": "0"}]


def test_a_tsv_may_be_quoted_if_the_format_says_so(write):
    source = write("a.tsv", 'text\tlabel\n"a ""b""\tc"\t1\n', format=Format("tsv", "\t", True))
    assert values(source) == [{"text": 'a "b"\tc', "label": "1"}]


def test_a_csv_reads_quotes_as_rfc_4180_does(write):
    source = write("a.csv", 'text,label\n"red, ""blue"", green",1\n"",0\nplain,"2"\n')
    assert values(source) == [
        {"text": 'red, "blue", green', "label": "1"},
        {"text": "", "label": "0"},
        {"text": "plain", "label": "2"},
    ]


def test_a_quote_inside_an_unquoted_csv_field_is_plain(write):
    assert values(write("a.csv", 'text,label\na 5" disk,1\n5" and "6",0\n')) == [
        {"text": 'a 5" disk', "label": "1"},
        {"text": '5" and "6"', "label": "0"},
    ]


@pytest.mark.parametrize(
    "content",
    ["text\tlabel\na,b;c\t1\n", 'text,label\n"a,b;c",1\n', "text;label\na,b;c;1\n".replace("a,b;c", '"a,b;c"')],
)
def test_the_header_of_a_csv_tells_tab_comma_or_semicolon(write, content):
    assert values(write("a.csv", content)) == [{"text": "a,b;c", "label": "1"}]


def test_a_tab_in_the_header_of_a_csv_wins_over_a_comma(write):
    assert write("a.csv", "text, raw\tlabel\na\t1\n").columns == ("text, raw", "label")


def test_a_csv_of_one_column_needs_no_delimiter(write):
    assert values(write("a.csv", 'text\nred\n"red, blue"\n')) == [{"text": "red"}, {"text": "red, blue"}]


def test_jsonl_values_are_text_as_they_are_spelled(write):
    line = '{"s": "caf\\u00e9", "i": 1, "f": 0.50, "e": 1e5, "t": true, "n": null, "big": 12345678901234567890123}'
    (row,) = values(write("a.jsonl", line))
    assert row == {
        "s": "café",
        "i": "1",
        "f": "0.50",
        "e": "1e5",
        "t": "true",
        "n": "",
        "big": "12345678901234567890123",
    }


def test_a_jsonl_key_that_is_missing_is_empty(write):
    assert values(write("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n')) == [
        {"text": "a", "label": "1"},
        {"text": "b", "label": ""},
    ]


def test_a_jsonl_key_may_first_appear_in_a_later_row(write):
    source = write("a.jsonl", '{"text": "a"}\n{"text": "b"}\n{"text": "c", "topic": "x"}\n')
    assert source.columns == ("text",)
    assert source.column("topic") == "topic"
    assert source.columns == ("text", "topic")
    assert [row.values["topic"] for row in source] == ["", "", "x"]


def test_plain_text_keeps_every_line_even_blank_ones(write):
    source = write("a.txt", 'red\n\n  blue "\t,\n\n')
    assert list(source) == [
        TextRow(1, {"text": "red"}),
        TextRow(2, {"text": ""}),
        TextRow(3, {"text": '  blue "\t,'}),
        TextRow(4, {"text": ""}),
    ]


def test_blank_lines_between_rows_of_a_table_or_jsonl_are_skipped(write):
    assert [row.line for row in write("a.tsv", "\nt\tl\n\na\t1\n\r\nb\t2\n\n")] == [4, 6]
    assert [row.line for row in write("a.csv", "t,l\n\na,1\n")] == [3]
    assert [row.line for row in write("a.jsonl", '\n{"a": 1}\n  \n{"a": 2}\n')] == [2, 4]


def test_a_tsv_line_of_tabs_only_is_a_row_of_empty_fields(write):
    assert values(write("a.tsv", "t\tl\n\t\n")) == [{"t": "", "l": ""}]


@pytest.mark.parametrize("word", ["NA", "N/A", "null", "None", "nan", "NaN", "inf", "true", "01", "1.0", " x "])
def test_no_word_turns_into_anything_else(write, word):
    assert values(write("a.tsv", f"t\tl\n{word}\t{word}\n")) == [{"t": word, "l": word}]
    assert values(write("a.csv", f"t,l\n{word},{word}\n")) == [{"t": word, "l": word}]
    assert values(write("a.jsonl", f'{{"t": "{word}"}}\n')) == [{"t": word}]
    assert values(write("a.txt", f"{word}\n")) == [{"text": word}]


# Lines and bytes


def test_a_byte_order_mark_is_removed(write):
    for name, content, column in [("a.tsv", "t\tl\na\t1\n", "t"), ("a.csv", '"t",l\na,1\n', "t")]:
        assert write(name, b"\xef\xbb\xbf" + content.encode()).columns[0] == column
    assert values(write("a.jsonl", b'\xef\xbb\xbf{"t": 1}')) == [{"t": "1"}]
    assert values(write("a.txt", b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n")) == [{"text": "a"}, {"text": "\ufeffb"}]
    assert values(write("b.txt", b"\xef\xbb\xbf")) == []


def test_crlf_ends_a_line(write):
    assert values(write("a.tsv", "t\tl\r\na\t1\r\nb\t2")) == [{"t": "a", "l": "1"}, {"t": "b", "l": "2"}]
    assert values(write("a.csv", 't,l\r\n"a\r\nb","1"\r\n')) == [{"t": "a\r\nb", "l": "1"}]
    assert values(write("a.jsonl", '{"t": 1}\r\n{"t": 2}\r\n')) == [{"t": "1"}, {"t": "2"}]
    assert values(write("a.txt", "a\r\n\r\nb\r\n")) == [{"text": "a"}, {"text": ""}, {"text": "b"}]


@pytest.mark.parametrize("mark", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\r"])
def test_only_a_newline_ends_a_line(write, mark):
    text = f"a{mark}b"
    assert list(write("a.tsv", f"t\tl\n{text}\t1\n")) == [TextRow(2, {"t": text, "l": "1"})]
    assert list(write("a.csv", f't,l\n{text},1\n{text},"1"\n')) == [
        TextRow(2, {"t": text, "l": "1"}),
        TextRow(3, {"t": text, "l": "1"}),
    ]
    assert list(write("a.txt", f"{text}\n")) == [TextRow(1, {"text": text})]


def test_jsonl_keeps_a_line_separator_inside_a_string(write):
    assert values(write("a.jsonl", '{"t": "a\u2028b\x85c"}\n{"t": "d"}\n')) == [{"t": "a\u2028b\x85c"}, {"t": "d"}]


def test_a_row_is_placed_at_the_line_where_it_starts(write):
    source = write("a.csv", 't,l\n"one\ntwo\n\nthree",1\nfour,2\n"five\n""six""\n","\n"\nseven,3\n')
    assert list(source) == [
        TextRow(2, {"t": "one\ntwo\n\nthree", "l": "1"}),
        TextRow(6, {"t": "four", "l": "2"}),
        TextRow(7, {"t": 'five\n"six"\n', "l": "\n"}),
        TextRow(11, {"t": "seven", "l": "3"}),
    ]


def test_a_header_may_be_quoted_and_span_lines(write):
    source = write("a.csv", '"the\ntext",label\na,1\n')
    assert source.columns == ("the\ntext", "label")
    assert list(source) == [TextRow(3, {"the\ntext": "a", "label": "1"})]


def test_a_byte_that_is_not_utf8_is_a_bad_row(write):
    rows, said = messages(write("a.tsv", b"t\tl\na\t1\ncaf\xe9\t2\nb\t3\n"))
    assert [row.line for row in rows] == [2, 4]
    assert said == ["3: byte 0xe9 is not UTF-8 (é in Latin-1 or Windows-1252); save the file as UTF-8"]


def test_a_bad_byte_in_a_row_of_several_lines_is_found_on_its_own_line(write):
    _, said = messages(write("a.csv", b't,l\n"a\nb\xff",1\n'))
    assert said[0].startswith("3: byte 0xff is not UTF-8")


def test_a_file_in_latin_1_is_one_message_whatever_its_length(write):
    rows, said = messages(write("a.tsv", b"t\tl\n" + b"caf\xe9\t2\n" * 30 + b"b\t3\nx\n"))
    assert [row.line for row in rows] == [32]
    assert said == [
        "2: byte 0xe9 is not UTF-8 (é in Latin-1 or Windows-1252); save the file as UTF-8 (29 more rows)",
        "33: expected 2 columns, found 1",
    ]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.txt", "a.jsonl", "a.json"])
def test_a_file_in_utf_16_is_named_as_that(write, name, encoding):
    source = write(name, "text\tlabel\na\t1\n".encode(encoding))
    assert error(source) == f"{source.name}: is UTF-16; save the file as UTF-8"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.xlsx", b"PK\x03\x04\x14\0", "an Excel or OpenDocument workbook; save the sheet as CSV in UTF-8"),
        ("a.xls", b"\xd0\xcf\x11\xe0", "an Excel or OpenDocument workbook; save the sheet as CSV in UTF-8"),
        ("a.csv", b"PK\x03\x04\x14\0", "a zip archive; unpack it, and save an Excel sheet as CSV in UTF-8"),
        (
            "a.csv",
            gzip.compress(b"t,l\n", mtime=0),
            "compressed with gzip; give a file whose name ends in .gz, or unpack it",
        ),
        ("a.jsonl", b"PAR1\x15\x04", "Parquet; give a file whose name ends in .parquet"),
        ("a.txt", "a".encode("utf-32"), "UTF-32; save the file as UTF-8"),
    ],
)
def test_a_file_that_is_not_text_is_named_as_what_it_is(write, name, content, kind):
    source = write(name, content)
    assert error(source) == f"{source.name}: is {kind}"


def test_what_a_message_quotes_of_a_file_is_escaped_and_cut(write):
    source = write("a.tsv", "\x1b[31mred\x07\t" + "x" * 200 + "\n")
    message = error(lambda: source.column("label"))
    assert "\\x1b[31mred\\x07, xxx" in message and "\x1b" not in message
    assert "x" * 81 not in message
    assert "of them" not in message and len(message) < 400
    many = write("b.tsv", "\t".join(f"c{number}" for number in range(500)) + "\n")
    assert error(lambda: many.column("label")).endswith("c19 and 480 more")


@pytest.mark.parametrize("name", ["a.tsv", "a.txt", "a.jsonl"])
def test_a_nul_byte_is_a_bad_row(write, name):
    header = "t\tl\n" if name == "a.tsv" else ""
    line = header.count("\n") + 1
    _, said = messages(write(name, header + "a\0b\n"))
    assert said == [f"{line}: found a NUL byte; expected text"]


# Columns


def test_columns_have_names_and_numbers(write):
    source = write("a.tsv", "id\tsentence\tlabel\n7\ta\t1\n")
    assert source.columns == ("id", "sentence", "label")
    assert (source.column("label"), source.column("2"), source.column("0")) == ("label", "label", "id")


def test_without_a_header_columns_are_numbers(write):
    source = write("a.tsv", "x1\t1\t\ta\nx2\t0\t*\tb\n", format=format_of("a.tsv", header=False))
    assert source.columns == ("0", "1", "2", "3")
    assert next(iter(source)) == TextRow(1, {"0": "x1", "1": "1", "2": "", "3": "a"})
    assert list(source)[1].values[source.column("3")] == "b"


def test_a_csv_without_header_finds_its_delimiter_in_the_first_row(write):
    source = write("a.csv", '"a";1\nb;2\n', format=format_of("a.csv", header=False))
    assert values(source) == [{"0": "a", "1": "1"}, {"0": "b", "1": "2"}]


def test_columns_without_a_name_are_found_by_number(write):
    source = write("a.csv", "0\t\tid\tsentence\n3\t3.0\tx\ta\n")
    assert source.columns == ("0", "1", "id", "sentence")
    assert [source.column(name) for name in ("0", "1", "2", "id")] == ["0", "1", "id", "id"]
    assert write("b.csv", "\t\tid\n1\t2\tx\n").columns == ("0", "1", "id")


def test_a_name_that_is_a_number_wins_over_the_number(write):
    source = write("a.csv", ",0,1\n5,a,b\n")  # what a data frame without column names is saved as
    assert len(set(source.columns)) == 3
    (row,) = source
    assert (row.values[source.column("0")], row.values[source.column("1")]) == ("a", "b")


def test_spaces_around_a_column_name_are_not_part_of_it(write):
    assert values(write("a.csv", "text, label \na, b \n")) == [{"text": "a", "label": " b "}]


def test_a_column_that_is_not_there_is_named_with_the_nearest(write):
    source = write("a.tsv", "id\tsentence\tlabel\n")
    assert error(lambda: source.column("sentense")) == (
        f'{source.name}: no column "sentense" among id, sentence, label; did you mean "sentence"?'
    )
    assert 'no column "3" among' in error(lambda: source.column("3"))


def test_a_jsonl_key_that_no_row_has_is_named_with_all_keys(write):
    source = write("a.jsonl", '{"text": "a"}\nbroken\n{"label": 1}\n')
    assert error(lambda: source.column("lable")) == (
        f'{source.name}: no column "lable" among text, label; did you mean "label"?'
    )
    assert source.columns == ("text",)


def test_plain_text_has_one_column(write):
    source = write("a.txt", "a\n")
    assert (source.columns, source.column("text"), source.column("0")) == (("text",), "text", "text")
    assert 'no column "label" among text' in error(lambda: source.column("label"))


def test_a_header_may_not_repeat_a_name(write):
    source = write("a.tsv", "label\ttext\tlabel\n1\ta\t2\n")
    assert error(source) == f'{source.name}:1: columns 0 and 2 (counted from 0) are both called "label"'


# Wrong shapes


def test_a_row_with_the_wrong_number_of_fields_is_reported(write):
    rows, said = messages(write("a.tsv", "id\ttext\tlabel\n1\ta\t0\n2\tb\n3\tc\t1\t9\n4\td\t1\n"))
    assert [row.line for row in rows] == [2, 5]
    assert said == ["3: expected 3 columns, found 2", "4: expected 3 columns, found 4"]


def test_a_row_with_another_separator_gets_a_hint(write):
    assert messages(write("a.tsv", "id\ttext\tlabel\n1,a,0\n"))[1] == [
        "2: expected 3 columns, found 1 (is this comma-separated?)"
    ]
    assert messages(write("a.csv", "id,text,label\n1\ta\t0\n"))[1] == [
        "2: expected 3 columns, found 1 (is this tab-separated?)"
    ]
    assert messages(write("b.tsv", "id\ttext\tlabel\nno separator, or one\n"))[1] == ["2: expected 3 columns, found 1"]


def test_an_unquoted_comma_in_a_csv_gets_a_hint(write):
    assert messages(write("a.csv", "text,label\nred, blue,1\n"))[1] == [
        "2: expected 2 columns, found 3 (is a text with a comma not quoted?)"
    ]


def test_a_comma_file_called_tsv_is_refused_at_its_header(write):
    source = write("a.tsv", "id,text,label\n1,a,0\n")
    assert error(source) == f"{source.name}:1: expected 2 or more columns, found 1 (is this comma-separated?)"
    assert error(lambda: source.column("text")) == error(source)


def test_lines_that_end_in_a_carriage_return_alone_are_refused(write):
    assert "end lines with \\n or \\r\\n" in error(write("a.tsv", "id\ttext\r1\ta\r2\tb\r"))


def test_a_quote_that_never_closes_is_placed_where_it_opened(write):
    source = write("a.csv", 't,l\na,1\n"b,2\nc,3\nd,4\n')
    assert error(source) == f'{source.name}:3: the quote opened here never closes; write a quote in a text as ""'


def test_a_quote_opened_within_a_longer_row_is_placed_on_its_own_line(write):
    assert "a.csv:4: the quote opened" in error(write("a.csv", 't,l\na,1\n"b\nc","2\nd,3\n'))


def test_a_quote_that_never_closes_is_an_error_even_when_bad_rows_are_skipped(write):
    source, bad = write("a.csv", 't,l\na\n"b,2\n'), BadRows("skip")
    assert error(lambda: list(iterate(source, bad))).count("\n") == 0
    bad = BadRows("error")
    assert error(lambda: list(iterate(source, bad))).count("\n") == 1  # behind the row of one column


def test_a_quote_left_open_is_not_searched_for_through_a_whole_large_file(write, monkeypatch):
    monkeypatch.setattr("mtlcli.data.readers.LONGEST_RECORD", 100)
    assert "a.csv:2: the quote opened" in error(write("a.csv", 't,l\n"b,2\n' + "c,3\n" * 50 + '"\n'))


def test_text_behind_a_closing_quote_is_a_bad_row(write):
    rows, said = messages(write("a.csv", 't,l\n"a" b,1\nc,2\n'))
    assert [row.line for row in rows] == [3]
    assert said == ['2: column 0 (counted from 0) goes on behind its closing quote; write a quote as ""']


def test_a_bad_row_of_several_lines_says_how_far_it_runs(write):
    rows, said = messages(write("a.csv", 't,l\n"a,1\n"b",2\nc,3\n'))
    assert [row.line for row in rows] == [4]
    assert said[0].endswith("; the row runs on to line 3, is a quote left open?")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "not JSON: Expecting property name enclosed in double quotes (character 2)"),
        ('{"a": 1} x', "not JSON: Extra data (character 10)"),
        ('["a", "b"]', "expected one JSON object on each line, found a list; if the whole file is one, name it .json"),
        ("1", "expected one JSON object on each line, found another value"),
        ('{"tokens": ["a"]}', '"tokens" is a list; expected text, a number, true, false or null'),
        ('{"meta": {"a": 1}}', '"meta" is an object; expected text, a number, true, false or null'),
        ('{"a": 1, "b": 2, "a": 3}', 'key "a" appears twice'),
        ('{"a": NaN}', 'NaN is not JSON; write null for nothing, or "NaN" for the word'),
        ('{"a": ["b", {"c": "x\\ud83d"}]}', '"a" holds \\ud83d, which is no character of a text'),
        ('{"a": "x\\ud83d"}', '"a" holds \\ud83d, which is no character of a text'),
        ('{"a": "x\\u0000"}', '"a" holds \\u0000, which is no character of a text'),
        ('{"a": ' + "[" * 100_000, "not a row: nested too deeply"),
    ],
)
def test_a_jsonl_line_that_is_no_row_is_reported(write, line, message):
    rows, said = messages(write("a.jsonl", f'{{"ok": 1}}\n{line}\n{{"ok": 2}}\n'))
    assert [row.line for row in rows] == [1, 3]
    assert said == [f"2: {message}"]


def test_a_whole_character_written_as_two_escapes_is_read(write):
    assert values(write("a.jsonl", '{"a": "\\ud83d\\ude00"}')) == [{"a": "\U0001f600"}]


def test_a_jsonl_list_is_left_out_where_only_other_keys_were_asked_for(write):
    source = write("a.jsonl", '{"text": "a", "spans": [1, 2]}\n')
    source.column("text")
    assert next(iter(source)).values["text"] == "a"
    source.column("spans")
    assert '"spans" is a list' in error(source)


def test_a_first_jsonl_line_that_is_broken_is_reported_like_any_other(write):
    source = write("a.jsonl", 'broken\n{"text": "a"}\n')
    assert source.column("text") == "text"
    rows, said = messages(source)
    assert rows == [TextRow(2, {"text": "a"})]
    assert said[0].startswith("1: not JSON")


# Arrays, compressed files, Parquet


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_of_objects_is_read_like_the_same_objects_on_lines(write, indent):
    objects = [{"t": 'a "[{,\\', "n": 1.50, "more": {"x": [1, {}]}}, {"t": "b\n]", "n": None, "more": []}]
    for ascii in (True, False):
        source = write("a.json", json.dumps(objects, indent=indent, ensure_ascii=ascii))
        assert source.column("t") == "t" and source.column("n") == "n"
        assert [row.values["t"] for row in source] == [row["t"] for row in objects]
        assert [row.values["n"] for row in source] == ["1.5", ""]
    lines = write("b.json", "".join(json.dumps(row) + "\n" for row in objects))
    lines.column("t")
    assert [row.values["t"] for row in lines] == [row["t"] for row in objects]


def test_rows_of_an_array_are_placed_at_their_lines_and_bad_ones_reported(write):
    rows, said = messages(write("a.json", '[\n{"a": 1},\n\n{"a":\n  oops},\n 7,\n{"a": 2}\n]\n'))
    assert [row.line for row in rows] == [2, 7]
    assert said == [
        "5: not JSON: Expecting value (character 3)",
        "6: expected one JSON object on each line, found another value",
    ]


def test_an_array_over_many_blocks_is_whole(write, monkeypatch):
    monkeypatch.setattr("mtlcli.data.readers.BLOCK", 7)
    monkeypatch.setattr("mtlcli.data.json_array.BLOCK", 7)
    source = write("a.json", "[" + ",\n".join(json.dumps({"t": f"text {n} with é and \\ {{"}) for n in range(50)) + "]")
    assert [(row.line, row.values["t"]) for row in source] == [(n + 1, f"text {n} with é and \\ {{") for n in range(50)]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[{"a": 1},\n{"a": 2}', "a.json:2: the array does not close; is the file cut off?"),
        ('[{"a": "1}]', "a.json:1: the array does not close; is the file cut off?"),
        ('[{"a": 1}]\n[]', "a.json:1: the file goes on behind the array; expected one array of objects"),
    ],
)
def test_an_array_that_is_not_whole_is_an_error(write, content, problem):
    assert error(write("a.json", content)).endswith(problem)


def test_an_empty_array_has_no_rows(write):
    assert values(write("a.json", " [ ]\n")) == []


def test_an_array_from_a_stream_is_read_too():
    assert values(stream(b'[{"t": 1},\n {"t": 2}]', "json")) == [{"t": "1"}, {"t": "2"}]
    assert values(stream(b'{"t": 1}\n{"t": 2}', "json")) == [{"t": "1"}, {"t": "2"}]


def test_json_values_are_kept_as_they_came_beside_their_text(write):
    (row,) = write("a.jsonl", '{"t": "a", "id": 7, "x": null, "b": true}\n')
    assert json_text(row.original) == '{"t": "a", "id": 7, "x": null, "b": true}'
    assert row.values == {"t": "a", "id": "7", "x": "", "b": "true"}


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "t,l\na,1\n"), ("a.tsv", "t\tl\na\t1\n"), ("a.jsonl", '{"t": "a", "l": 1}'),
                          ("a.json", '[{"t": "a", "l": 1}]')]
)  # fmt: skip
def test_a_compressed_file_is_read_like_the_plain_one(write, name, content):
    source = write(f"{name}.gz", gzip.compress(content.encode()))
    assert values(source) == values(source) == [{"t": "a", "l": "1"}]


def test_a_compressed_file_that_is_cut_off_or_none_at_all_is_one_line(write):
    whole = gzip.compress(b"t\tl\n" + os.urandom(30_000).hex().encode())
    for content in (whole[:9000], b"t\tl\na\t1\n"):
        source = write("a.tsv.gz", content)
        assert error(source).startswith(f"{source.name}: is not a whole gzip file (")


def test_parquet_without_pyarrow_says_what_to_install(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    source = write("a.parquet", b"PAR1")
    assert error(source) == f"{source.name}: reading Parquet needs pyarrow: pip install 'mtlcli[parquet]'"


def test_parquet_is_read_by_its_columns(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table(
        {
            "t": ["a", "b"], "id": [7, None], "s": pyarrow.array([0.1, 2.0], pyarrow.float32()), "l": [True, False],
            "tokens": [["x"], []],
        }
    )  # fmt: skip
    parquet.write_table(table, tmp_path / "a.parquet")
    source = FileSource(tmp_path / "a.parquet")
    assert source.columns == ("t", "id", "s", "l", "tokens")
    assert '"tokens" is a list' in error(source)
    source.column("t")
    assert [(row.line, row.values["id"], row.values["s"], row.values["l"]) for row in source] == [
        (1, "7", "0.1", "true"),
        (2, "", "2.0", "false"),
    ]
    assert json_text(next(iter(source)).original) == '{"t": "a", "id": 7, "s": 0.1, "l": true, "tokens": ["x"]}'
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:200])
    assert "b.parquet: is not a Parquet file that can be read (" in error(FileSource(tmp_path / "b.parquet"))


def test_a_header_that_may_be_a_row_is_noted_where_columns_are_numbers(write):
    source = write("a.tsv", "the fine lamp\tgood\nthe pie\tbad\n")
    assert source.header_note(("0", "1"), "say --no-header") == (
        f'{source.name}: the first line was read as the header (column 0, 1: "the fine lamp", "good"); '
        "if it is a row, say --no-header"
    )
    assert write("b.tsv", "\tsentence\n0\tthe pie\n").header_note(("0", "sentence"), "x") == ""
    assert write("c.tsv", "a\t1\n", format=format_of("c.tsv", header=False)).header_note(("0", "1"), "x") == ""


# Files that are missing or empty


def test_a_missing_file_is_named_in_full_with_the_nearest(tmp_path):
    (tmp_path / "train.tsv").touch()
    wanted = tmp_path / "trian.tsv"
    assert error(lambda: FileSource(wanted)) == f'{wanted}: no such file; did you mean "train.tsv"?'


def test_a_relative_path_is_made_absolute_where_the_file_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        error(lambda: FileSource("x/a.tsv"))
        == f"{tmp_path / 'x/a.tsv'}: no such file; there is no folder {tmp_path / 'x'}"
    )


def test_a_folder_is_not_a_file(tmp_path):
    assert error(lambda: FileSource(tmp_path)) == f"{tmp_path}: is a folder; expected a file"


def test_a_file_without_permission_is_refused(write, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "a.tsv: permission denied" in error(lambda: write("a.tsv", "t\n"))


@pytest.mark.parametrize("content", ["", "\n\r\n\n"])
@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_a_table_without_even_a_header_is_refused(write, name, content):
    source = write(name, content)
    assert error(source) == f"{source.name}: is empty; expected a header line"


def test_a_file_with_nothing_but_a_header_has_no_rows(write):
    for name, content in [("a.tsv", "t\tl\n"), ("a.csv", "t,l"), ("a.jsonl", ""), ("a.txt", "")]:
        assert list(write(name, content)) == []
    empty = write("b.tsv", "", format=format_of("b.tsv", header=False))
    assert (list(empty), empty.columns, empty.column("0")) == ([], (), "0")
    assert write("b.jsonl", "").column("text") == "text"


# Bad rows


def test_bad_rows_are_raised_all_at_once(write):
    source = write("a.tsv", "t\tl\n" + "bad\n" * 3 + "a\t1\n")
    assert error(source).split("\n") == [f"{source.name}:{line}: expected 2 columns, found 1" for line in (2, 3, 4)]


def test_beyond_twenty_bad_rows_are_only_counted(write):
    source, bad = write("a.tsv", "t\tl\n" + "bad\n" * 25), BadRows()
    assert list(iterate(source, bad)) == []
    assert (bad.count, len(bad.messages)) == (25, SHOWN)
    with pytest.raises(MtlError) as caught:
        bad.raise_if_any()
    assert len(caught.value.lines) == 21
    assert caught.value.lines[-1] == "... and 5 more"


def test_skipped_rows_are_counted_and_told(write):
    source, bad = write("a.tsv", "t\tl\na\t1\nbad\nb\t2\n"), BadRows("skip")
    assert [row.line for row in iterate(source, bad)] == [2, 4]
    bad.raise_if_any()
    assert bad.summary() == f"1 row skipped ({source.name}:3: expected 2 columns, found 1)"
    assert BadRows("skip").summary() == ""


def test_a_caller_reports_its_own_bad_labels_among_the_others(write):
    source, bad = write("a.tsv", "t\tl\na\t1\nbad\nb\t\n"), BadRows()
    for row in iterate(source, bad):
        if not row.values["l"]:
            bad.report(source.name, row.line, "l is empty")
    assert [line.split(":")[1] for line in bad.messages] == ["3", "4"]


def test_two_complaints_about_one_row_are_one_bad_row():
    bad = BadRows("skip")
    bad.report("a.tsv", 7, "score is empty")
    bad.report(Path("a.tsv"), 7, "topic is empty")
    bad.report("b.tsv", 7, "topic is empty")
    assert (bad.count, len(bad.messages)) == (2, 3)
    assert bad.summary().startswith("2 rows skipped (a.tsv:7: score is empty; ")


# Streams, digests, size


def test_a_file_may_be_read_again(write):
    for name, content in [("a.tsv", "t\tl\na\t1\n"), ("a.jsonl", '{"t": 1}\n'), ("a.txt", "a\n")]:
        source = write(name, content)
        assert list(source) == list(source) != []


def test_the_digest_is_that_of_the_bytes(write):
    content = b"\xef\xbb\xbft\tl\r\na\t1\r\n"
    assert write("a.tsv", content).digest() == hashlib.sha256(content).hexdigest()


def stream(content, name="tsv", **options):
    return FileSource("<stdin>", format=format_of("", name=name, **options), stream=io.BytesIO(content))


def test_a_stream_is_read_like_a_file_but_once():
    source = stream(b"t\tl\na\t1\nbad\n")
    assert source.column("1") == "l"
    bad = BadRows()
    assert list(iterate(source, bad)) == [TextRow(2, {"t": "a", "l": "1"})]
    assert bad.messages == ["<stdin>:3: expected 2 columns, found 1"]
    with pytest.raises(ValueError, match="has been read"):
        list(source)
    with pytest.raises(ValueError, match="digest"):
        source.digest()


def test_a_stream_loses_no_row_to_the_look_at_its_columns():
    for source in (
        stream(b'{"t": 1}\n{"t": 2}', "jsonl"),
        stream(b"1\n2\n", "csv", header=False),
        stream(b"1\n2\n", "text"),
    ):
        key = source.column(source.columns[0])
        assert [row.values[key] for row in source] == ["1", "2"]


def test_a_stream_of_jsonl_is_asked_for_the_keys_of_its_first_object():
    assert 'no column "label" among t' in error(lambda: stream(b'{"t": 1}\n{"label": 2}', "jsonl").column("label"))


@pytest.mark.parametrize(
    ("name", "header", "rows"),
    [
        ("text", "", ["a\n", "\n"]),
        ("tsv", "t\tl\n", ["a\t1\n", "b\t2\n"]),
        ("csv", "t,l\n", ['"a\nb",1\n', "c,2\n"]),
        ("jsonl", "", ['{"t": 1}\n', '{"t": 2}\n']),
    ],
)
def test_a_row_of_a_stream_comes_before_the_next_is_written(name, header, rows):
    reading, writing = os.pipe()
    received: list[TextRow] = []
    arrived = threading.Semaphore(0)

    def read():
        with open(reading, "rb") as pipe:
            for row in FileSource("<stdin>", format=format_of("", name=name), stream=pipe):
                received.append(row)
                arrived.release()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    with open(writing, "wb", buffering=0) as pipe:
        pipe.write(header.encode())
        for row in rows:
            pipe.write(row.encode())
            assert arrived.acquire(timeout=20), "the row was held back"
    thread.join(timeout=20)
    assert len(received) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_read_once_like_a_stream(tmp_path):
    path = tmp_path / "pipe.tsv"
    os.mkfifo(path)
    writer = subprocess.Popen([sys.executable, "-c", f"open({str(path)!r}, 'w').write('t\\tl\\na\\t1\\n')"])
    source = FileSource(path)
    assert source.columns == ("t", "l")
    assert list(source) == [TextRow(2, {"t": "a", "l": "1"})]
    assert writer.wait(timeout=20) == 0


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "a.txt"])
def test_memory_does_not_grow_with_the_file(write, name):
    header, line = {
        "a.tsv": ("t\tl\n", "red\t1\nbad row\n"),
        "a.csv": ("t,l\n", '"red, ""blue""",1\n'),
        "a.jsonl": ("", '{"t": "red", "l": 1}\n'),
        "a.txt": ("", "red\n"),
    }[name]
    source, bad = write(name, header + line * 20_000), BadRows("skip")
    tracemalloc.start()
    try:
        rows = sum(1 for _ in iterate(source, bad))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows == 20_000
    assert peak < 400_000


def test_a_very_long_quoted_text_is_read(write):
    text = 'x ""y"", z\n' * 100_000
    (row,) = write("a.csv", f't,l\n"{text}",1\n')
    assert row.values["t"] == text.replace('""', '"')


# Real files

ROW = re.compile(r"^\| (\S+\.(?:csv|tsv)) \| (\d+) \| \d+ \| ([0-9a-f]{64}) \|", re.MULTILINE)
WITHOUT_HEADER = {"mtdnn_samples/CoLA/train.tsv", "mtdnn_samples/CoLA/dev.tsv"}


def real_files():
    """(folder, file, rows, sha256) from the tables of the READMEs; one, for the fixture to skip, if there are none."""
    data = real_data()
    found = [
        pytest.param(folder, *entry, id=f"{folder}/{entry[0]}")
        for folder in ("cs224n", "glue", "extra")
        if data is not None and (data / folder / "README.md").exists()
        for entry in ROW.findall((data / folder / "README.md").read_text(encoding="utf-8"))
    ]
    return found or [("", "", "0", "")]


@pytest.mark.real_data
@pytest.mark.parametrize(("folder", "name", "count", "sha256"), real_files())
def test_a_real_file_has_the_rows_that_its_readme_counts(data, folder, name, count, sha256):
    path = data / folder / name
    source, bad = FileSource(path, format=format_of(path, header=name not in WITHOUT_HEADER)), BadRows()
    rows = sum(1 for _ in iterate(source, bad))
    assert (rows, bad.messages) == (int(count), [])
    assert source.digest() == sha256


@pytest.mark.real_data
def test_the_two_malformed_quora_rows_are_rows_with_an_empty_label(data):
    empty = {}
    for part in ("train", "dev"):
        source = FileSource(data / "cs224n" / f"quora-{part}.csv")
        label = source.column("is_duplicate")
        empty |= {row.values["id"]: (part, row.line) for row in source if not row.values[label]}
    assert empty == {
        "9054345d02cd6c5642a4904dc": ("train", 12035),
        "ad118c967d683c93883bf072d": ("dev", 270),
    }


@pytest.mark.real_data
def test_the_double_index_of_a_real_test_file_is_found_by_number(data):
    source = FileSource(data / "cs224n" / "ids-cfimdb-test-student.csv")
    assert source.columns == ("0", "1", "id", "sentence")
