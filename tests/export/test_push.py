"""`mtl push` against a stand-in for the Hub: what arrives, what never leaves, and answers that are errors."""

import json
import socket

import pytest

import mtlcli
from hub_server import hub_server
from mtlcli.errors import MtlError
from mtlcli.export import push
from mtlcli.export.push import prepare_push, send
from mtlcli.export.sentence_transformers import export_sentence_transformers
from mtlcli.runs.saved_model import load_run
from small import small_values, write_files

TOKEN = "hf_secretsecretsecretsecretsecretse"

# A warning of the library about itself.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with an export in it."""
    place = tmp_path_factory.mktemp("secret-folder")
    values = small_values(write_files(place / "files")) | {"training": {"steps": 2, "device": "cpu"}}
    values["tasks"]["near"] |= {"encoding": "bi", "head": "cosine"}
    mtlcli.train(values, output=place / "run")
    export_sentence_transformers(load_run(place / "run")[0], None, place / "run" / "sentence-transformers")
    return place / "run"


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


def test_what_arrives_is_a_run_without_the_folders_of_this_machine(run, hub, tmp_path):
    prepared = prepare_push(run, "me/name")
    assert hub.requests == []
    assert send(prepared, private=True).startswith(f"{hub.address}/me/name/commit/")
    tree = hub.files["main"]
    assert hub.created.get("visibility") == "private" and hub.large  # both ways of sending a file were used
    assert {name.partition("/")[0] for name in tree} == {
        "README.md", "run.json", "heads.safetensors", "encoder", "sentence-transformers",
    }  # fmt: skip
    for name, content in tree.items():
        if name != "run.json":
            assert content == (run / name).read_bytes(), name
        assert b"secret-folder" not in content, name
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert json.loads(tree["run.json"])["config"]["tasks"]["tone"]["train"] == "tone-train.tsv"
    texts = ["the big cook"]
    assert mtlcli.load(tmp_path).predict(texts, task="tone") == mtlcli.load(run).predict(texts, task="tone")
    # A second push is a second commit.
    send(prepared)
    assert hub.files["main"] == tree


def test_a_branch_is_made_and_written(run, hub):
    send(prepare_push(run, "name"), branch="trial")
    assert [*hub.files] == ["trial"] and "/api/models/me/name/branch/trial" in hub.requests


def test_an_upload_that_breaks_once_is_repeated(run, hub):
    hub.broken_uploads = 1
    send(prepare_push(run, "me/name"))
    assert hub.broken_uploads == 0 and "heads.safetensors" in hub.files["main"]


def test_a_repository_that_exists_is_written(run, hub):
    hub.status["/api/repos/create"] = 409
    send(prepare_push(run, "me/name"))
    assert "run.json" in hub.files["main"]


@pytest.mark.parametrize(
    ("part", "status", "sentence"),
    [
        ("create", 401, "not logged in, or the token is not valid: run hf auth login, or set HF_TOKEN"),
        ("create", 403, "no right to write to me/name"),
        ("commit", 403, "no right to write to me/name"),
        ("preupload", 503, "answers 503; nothing was committed, try again later"),
        ("commit", 400, "refuses me/name with status 400; nothing was committed"),
    ],
)
def test_an_answer_that_is_an_error_is_one_line_without_the_token(run, hub, part, status, sentence, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the library's tries
    hub.status[part] = status
    with pytest.raises(MtlError, match=sentence) as raised:
        send(prepare_push(run, "me/name"))
    assert len(raised.value.lines) == 1 and TOKEN not in str(raised.value) and hub.files == {}


def test_a_server_that_never_answers_ends_after_the_limit(run, hub, monkeypatch):
    monkeypatch.setattr(push, "SECONDS_TO_ANSWER", 0.2)
    hub.silent_seconds = 1.5
    with pytest.raises(
        MtlError, match=r"does not answer \(10 s to connect, 0.2 s for an answer\); nothing was committed"
    ):
        send(prepare_push(run, "me/name"))


def test_a_server_that_is_not_there_is_one_line(run, hub, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(MtlError, match=r"cannot be reached \(ConnectError\); nothing was committed"):
        send(prepare_push(run, "me/name"))


def test_an_export_of_other_weights_is_left_out(run, tmp_path):
    manifest = run / "sentence-transformers" / "export.json"
    before = manifest.read_text()
    manifest.write_text(json.dumps(json.loads(before) | {"run": "other"}))
    prepared = prepare_push(run, "me/name")
    manifest.write_text(before)
    assert "sentence-transformers/ is left out" in prepared.notes[0]
    assert not any(name.startswith("sentence-transformers") for name in prepared.files)


def test_a_name_that_is_no_repository_is_refused(run):
    with pytest.raises(MtlError, match='REPO: found "a/b/c"; expected NAME or OWNER/NAME'):
        prepare_push(run, "a/b/c")
