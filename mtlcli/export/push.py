"""Runs on the Hugging Face Hub, or on a server with the same interface."""

import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlcli.errors import MtlError
from mtlcli.export.card import card_text
from mtlcli.export.paths import record_without_folders
from mtlcli.files import sealed_text, sha256
from mtlcli.runs.card_file import CARD
from mtlcli.runs.names import MANIFEST, ONNX, RECORD, SENTENCE_TRANSFORMERS
from mtlcli.runs.record import FORMAT, model_digest, must_be_as_written, read_record

HUB = "https://huggingface.co"
SECONDS_TO_CONNECT = 10.0
SECONDS_TO_ANSWER = 120.0
"""The library of the Hub has no limits of its own: a server that accepts and never answers would hang it without end."""


@dataclass(frozen=True)
class Push:
    """What a push sends: the content of files, or where it is, by their paths in the repository.

    `notes` name exports that are left out. `licensed` says whether the card states a license.
    """

    run: Path
    repo: str
    files: dict[str, Path | bytes]
    notes: tuple[str, ...]
    licensed: bool

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file."""
        return {
            name: len(source) if isinstance(source, bytes) else source.stat().st_size
            for name, source in self.files.items()
        }


def endpoint() -> str:
    """Return the address of the server: HF_ENDPOINT, or the Hub."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB


def prepare_push(run: Path, repo: str) -> Push:
    """Return what a push of a run sends: its model, card and exports, without the folders of this machine. Nothing is sent.

    Raises:
        MtlError: the folder holds no undamaged run, or the repository's name is none.
    """
    record = read_record(run)
    must_be_as_written(run, record)
    check_repo(repo)
    card = (run / CARD).read_bytes() if (run / CARD).is_file() else card_text(run).encode("utf-8")
    files: dict[str, Path | bytes] = {
        CARD: card,
        # Sealed again, because the checksum covers the folders that were removed.
        RECORD: sealed_text(record_without_folders(record), FORMAT).encode("utf-8", "surrogateescape"),
        **{name: run / name for name in sorted(record["files"])},
    }
    notes = []
    for folder in (ONNX, SENTENCE_TRANSFORMERS):
        if not (run / folder / MANIFEST).is_file():
            continue
        try:
            manifest = json.loads((run / folder / MANIFEST).read_text(encoding="utf-8"))
            names, of_run = sorted(manifest["files"]), manifest["run"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MtlError(f"{run / folder / MANIFEST}: cannot be read; export again with --overwrite") from error
        if of_run != model_digest(record):
            notes.append(f"{folder}/ is left out: it was exported before the run had these weights; export it again")
            continue
        for name in names:
            path = run / folder / name
            if not path.is_file() or sha256(path) != manifest["files"][name]:
                raise MtlError(f"{path}: is missing or not as it was exported; export again with --overwrite")
        # The manifest does not list itself.
        files |= {f"{folder}/{name}": run / folder / name for name in (*names, MANIFEST)}
    return Push(run, repo, files, tuple(notes), _is_licensed(card))


def check_repo(repo: str) -> None:
    """Raise MtlError for a name that is no repository's."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise MtlError(f'REPO: found "{repo}"; expected NAME or OWNER/NAME') from error


def _is_licensed(card: bytes) -> bool:
    """Return whether the metadata of a card states another license than `other`, or names the other one."""
    import yaml
    from huggingface_hub import ModelCard

    try:
        data = ModelCard(card.decode("utf-8")).data.to_dict()
    except (ValueError, yaml.YAMLError) as error:
        raise MtlError(
            f"{CARD}: its metadata cannot be read ({str(error).splitlines()[0]}); write it again with mtl card"
        ) from error
    return data.get("license", "other") != "other" or bool(data.get("license_name"))


def send(push: Push, *, private: bool | None = None, branch: str | None = None) -> str:
    """Create the repository unless it exists, send all files as one commit, and return the commit's address.

    Args:
        push: what to send.
        private: whether a new repository is private; None for what the account's settings say.
        branch: branch to write, made if there is none; None for `main`.

    Raises:
        MtlError: the server cannot be reached, does not answer, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_session

    address = endpoint()
    if address != HUB:
        # Other servers have no storage of this kind, and the library would try for more than a minute.
        constants.HF_HUB_DISABLE_XET = True
    session: Any = get_session()
    # In the order of httpx: connect, read, write, pool.
    session.timeout = (SECONDS_TO_CONNECT, SECONDS_TO_ANSWER, SECONDS_TO_ANSWER, SECONDS_TO_CONNECT)
    api = HfApi(endpoint=address)
    with _explained(push.repo, address, session):
        # With the owner, which REPO can omit.
        repo = api.create_repo(push.repo, exist_ok=True, private=private).repo_id
        if branch is not None:
            api.create_branch(repo, branch=branch, exist_ok=True)
        operations = [
            CommitOperationAdd(name, source if isinstance(source, bytes) else str(source))
            for name, source in push.files.items()
        ]
        commit = api.create_commit(repo, operations, commit_message="Upload with mtlcli", revision=branch)
    return str(commit.commit_url)


@contextmanager
def _explained(repo: str, address: str, session: Any) -> Iterator[None]:
    """Turn what the library raises for a server into one line, without the token, which requests carry."""
    try:
        yield
    except Exception as error:
        # An upload of a large file raises RuntimeError from the error itself.
        line = _explanation(repo, address, session, error) or _explanation(repo, address, session, error.__cause__)
        if line is None:
            raise
        # The traceback of the cause could show the request, which carries the token.
        raise MtlError(line) from None


def _explanation(repo: str, address: str, session: Any, error: BaseException | None) -> str | None:
    """Return the line for an error of the library or of the network; None for any other."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    # The library's own copy of httpx has changed its name before.
    network: Any = importlib.import_module(type(session).__module__.partition(".")[0])
    match error:
        case LocalTokenNotFoundError():
            return _not_logged_in(address)
        case HfHubHTTPError():
            return _refusal(repo, address, error.response.status_code)
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set, so nothing can be pushed; unset it"
        case network.TimeoutException():
            return (
                f"{address} does not answer ({SECONDS_TO_CONNECT:g} s to connect, {SECONDS_TO_ANSWER:g} s for an answer); nothing was "
                "committed, try again later"
            )
        case network.TransportError():
            return (
                f"{address} cannot be reached ({type(error).__name__}); nothing was committed. Check the network, the proxy and "
                "HF_ENDPOINT"
            )
    return None


def _refusal(repo: str, address: str, status: int) -> str:
    """Return the line for an answer that is an error."""
    if status == 401:
        return _not_logged_in(address)
    if status == 403:
        return f"{address}: no right to write to {repo}; use a token that may write, or a repository of your own"
    if status == 404:
        return f"{address}: there is no {repo}, or this token does not see it"
    if status >= 500:
        return f"{address} answers {status}; nothing was committed, try again later"
    return f"{address} refuses {repo} with status {status}; nothing was committed"


def _not_logged_in(address: str) -> str:
    return f"{address}: not logged in, or the token is not valid: run hf auth login, or set HF_TOKEN"
