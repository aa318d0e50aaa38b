"""Rows that are in no file: the made-up ones, and those of the hub, which must never make anyone wait."""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest

from mtlcli import hub as hub_module
from mtlcli import registry
from mtlcli.config.schema import TaskConfig
from mtlcli.data import sources
from mtlcli.data.readers import BadRows
from mtlcli.data.sources import MadeRows, hub_source, rows_of, sample_source
from mtlcli.data.splits import load_task
from mtlcli.errors import MtlError
from mtlcli.hub import hub_answers


@contextmanager
def server(answer: bytes | None) -> Iterator[str]:
    """Accepts every connection; answers with these bytes, or never."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        held = []

        def accept():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                held.append(connection)
                if answer is not None:
                    connection.recv(65536)
                    connection.sendall(answer)
                    connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    for connection in held:
        connection.close()


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """Nothing of the machine's own settings of hub and proxy."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def task():
    return registry.load("tasks", "quora", "test")("q")


@pytest.fixture
def hub(monkeypatch):
    """A library `datasets` that holds two questions, and what it was asked for."""
    library = ModuleType("datasets")
    library.asked, library.error = [], None
    library.config = SimpleNamespace(HF_HUB_OFFLINE=False)

    def load_dataset(name, configuration, *, split):
        library.asked.append((name, configuration, split))
        if library.error is not None:
            raise library.error
        return [
            {"question1": "one", "question2": "two", "label": 0, "idx": 0},
            {"question1": "three", "question2": "four", "label": 1, "idx": 1},
            {"question1": "five", "question2": "six", "label": None, "idx": 2},
        ]

    library.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setattr(sources, "hub_answers", lambda: True)
    return library


def error(call, *arguments, **more) -> str:
    with pytest.raises(MtlError) as caught:
        call(*arguments, **more)
    return str(caught.value)


# Made-up rows


def test_made_up_rows_are_made_anew_every_time():
    source = MadeRows("made", lambda: iter([{"text": "x", "score": 1.5}]), ("text", "score"))
    for _ in range(2):
        assert [(row.line, row.values) for row in rows_of(source, BadRows())] == [(1, {"text": "x", "score": "1.5"})]
    assert 'no column "txt"; did you mean "text"?' in error(source.column, "txt")


def test_a_sample_is_of_the_tasks_that_have_one(task):
    assert sample_source(task, "train").columns == ("sentence1", "sentence2", "is_duplicate")
    found = error(sample_source, registry.load("tasks", "cfimdb", "test")("c"), "train")
    assert found == 'tasks.c: "c" has no made-up rows for --sample; give it files: --task c=train.tsv,dev.tsv'


# The hub


def test_a_task_without_files_is_read_from_the_hub(task, hub):
    loaded = load_task("q", TaskConfig(), task, data=None, sample=False, seed=1)
    assert hub.asked == [("nyu-mll/glue", "qqp", "train"), ("nyu-mll/glue", "qqp", "validation")]
    split = loaded.splits["train"]
    assert list(split.texts()) == [("one", "two"), ("three", "four")]
    assert split.gold["index"].tolist() == [0, 1]
    assert "1 row skipped (hub nyu-mll/glue train:3: is_duplicate is empty)" in split.warnings[0]


def test_the_hub_has_no_split_of_this_name(task, hub):
    assert hub_source(task, task.hub, "test") is None
    assert hub.asked == []


def test_what_the_library_has_in_its_cache_does_without_the_hub(task, hub, monkeypatch):
    monkeypatch.setattr(sources, "hub_answers", lambda: False)
    assert len(list(rows_of(hub_source(task, task.hub, "train"), BadRows()))) == 3
    assert hub.config.HF_HUB_OFFLINE is True


WAYS = ("--task q=train.tsv,dev.tsv", "--data FOLDER", "--sample", "pip install 'mtlcli[hub]'")


def test_without_the_library_the_error_names_the_ways_out(task, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    found = error(hub_source, task, task.hub, "train")
    assert found.startswith('tasks.q: no data, and the library "datasets" is not installed: ')
    assert all(way in found for way in WAYS)


@pytest.mark.parametrize(
    ("raised", "reason"), [(ConnectionError("\nno route\nto it"), "no route"), (KeyError(), "KeyError")]
)
def test_whatever_the_library_raises_the_error_names_the_ways_out(task, hub, raised, reason):
    hub.error = raised
    found = error(hub_source, task, task.hub, "train")
    assert found.startswith(f"tasks.q: nyu-mll/glue cannot be read from the hub ({reason})")
    assert all(way in found for way in WAYS)


# Whether it answers


def test_a_hub_that_accepts_and_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(hub_module, "PROBE_SECONDS", 0.5)
    with server(None) as url:
        start = time.monotonic()
        assert not hub_answers(url)
        assert time.monotonic() - start < 5


def test_the_wait_is_five_seconds():
    assert hub_module.PROBE_SECONDS == 5


def test_a_name_that_takes_forever_to_look_up_is_given_up(monkeypatch):
    monkeypatch.setattr(hub_module, "PROBE_SECONDS", 0.2)
    done = threading.Event()
    monkeypatch.setattr(hub_module, "_answers", lambda url: done.wait(20))
    start = time.monotonic()
    assert not hub_answers("http://somewhere")
    assert time.monotonic() - start < 5
    done.set()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", True),
        (b"nonsense\r\n\r\n", False),
        (b"", False),
    ],
)
def test_any_http_answer_is_an_answer(monkeypatch, answer, expected):
    with server(answer) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        assert hub_answers() is expected


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "http://"])
def test_an_address_where_nobody_is_does_not_answer(url):
    assert not hub_answers(url)


@pytest.mark.parametrize(
    ("name", "value", "asked"),
    [("HF_HUB_OFFLINE", "1", False), ("TRANSFORMERS_OFFLINE", "yes", False), ("HF_HUB_OFFLINE", "0", True)],
)
def test_offline_means_nobody_is_asked(monkeypatch, name, value, asked):
    questions = []
    monkeypatch.setattr(hub_module, "_answers", lambda url: bool(questions.append(url)) or True)
    monkeypatch.setenv(name, value)
    assert hub_answers("http://x") is asked
    assert len(questions) == asked
