"""From an encoder's name to a loaded model and tokenizer: plugin, local folder or hub id, in this order."""

import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlcli import registry
from mtlcli.config import EncoderConfig, is_encoder_plugin
from mtlcli.data.sources import PROBE_SECONDS, hub_answers
from mtlcli.encoders.base import EncoderFacts, EncoderSource
from mtlcli.errors import MtlError, did_you_mean

NEEDED = ["*.json", "*.safetensors", "*.txt", "*.model"]


@dataclass(frozen=True)
class LoadedEncoder:
    """A transformers model without a task head, its fast tokenizer, and the width of its hidden states."""

    model: Any
    tokenizer: Any
    dim: int


def plugin_of(config: EncoderConfig) -> EncoderSource | None:
    """The encoder plugin that the name stands for, built with its options; None for a folder or hub id."""
    if not is_encoder_plugin(config.name):
        return None
    plugin: EncoderSource = registry.load("encoders", config.name, "encoder")(**config.options)
    return plugin


def encoder_folder(config: EncoderConfig, facts: EncoderFacts) -> Path:
    """The folder of the encoder's files. Raises MtlError when there is none, within 10 seconds and with the cures."""
    quiet_transformers()
    plugin = plugin_of(config)
    if plugin is not None:
        return plugin.folder(facts)
    path = Path(config.name).expanduser()
    if path.is_dir() or config.name.startswith((".", "/", "~")) or "\\" in config.name:
        return _local(path)
    return _from_hub(config.name)


def _local(path: Path) -> Path:
    where = path.absolute()
    if not path.is_dir():
        near = [other.name for other in where.parent.iterdir() if other.is_dir()] if where.parent.is_dir() else []
        raise MtlError(f"encoder: there is no folder {where}{did_you_mean(where.name, near)}")
    if not (path / "config.json").is_file():
        inside = next((found.parent for found in sorted(path.glob("*/config.json"))), None)
        hint = f'; did you mean "{inside}"?' if inside else ""
        raise MtlError(f"encoder: {where} holds no config.json, so it is not a model folder of transformers{hint}")
    return path


def _from_hub(name: str) -> Path:
    if name.count("/") > 1 or any(character.isspace() for character in name):
        raise MtlError(f'encoder: "{name}" is neither a folder nor a hub id (NAME or OWNER/NAME)')
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = Path(snapshot_download(name, local_files_only=True, allow_patterns=NEEDED))
        if (found / "config.json").is_file() and list(found.glob("*.safetensors")):
            return found
    except LocalEntryNotFoundError:
        pass
    known = registry.names("encoders")
    cures = (
        f"looked in {constants.HF_HUB_CACHE} first; give a folder (--encoder DIR), an installed encoder "
        f"({', '.join(known)}), or go online (proxy, HF_ENDPOINT){did_you_mean(name, known)}"
    )
    if not within(PROBE_SECONDS, hub_answers):
        offline = os.environ.get("HF_HUB_OFFLINE")
        why = "HF_HUB_OFFLINE is set" if offline else f"the hub does not answer within {PROBE_SECONDS:g} s"
        raise MtlError(f'encoder: no folder is called "{name}", and as a hub id it is out of reach ({why}): {cures}')
    try:
        return Path(snapshot_download(name, allow_patterns=NEEDED))
    except (HfHubHTTPError, OSError) as error:
        raise MtlError(
            f'encoder: "{name}" cannot be had from the hub ({str(error).splitlines()[0]}): {cures}'
        ) from error


def within(seconds: float, question: Any) -> bool:
    """The answer to a question, False when it takes longer: looking up a host name cannot be bounded otherwise."""
    answer: list[bool] = []
    thread = threading.Thread(target=lambda: answer.append(question()), daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answer and answer[0])


def load_encoder(folder: Path, *, weights: bool = True) -> LoadedEncoder:
    """Loads model and tokenizer from a folder; without `weights` the model is made from config.json alone.

    Raises MtlError for a folder that transformers cannot load, and for a tokenizer that has no fast form.
    """
    quiet_transformers()
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    try:
        if weights:
            model = AutoModel.from_pretrained(folder, local_files_only=True, dtype="float32")
        else:
            model = AutoModel.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MtlError(f"encoder: {folder} cannot be loaded by transformers: {reason}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise MtlError(f"encoder: the weights in {folder} are damaged: {error}; get the folder anew") from error
    if not getattr(tokenizer, "is_fast", False):
        raise MtlError(f"encoder: {folder} has no fast tokenizer (tokenizer.json); convert it with transformers first")
    return LoadedEncoder(model, tokenizer, int(model.config.hidden_size))


def check_length(encoder: LoadedEncoder, max_length: int) -> None:
    """Raises MtlError when the model has fewer positions than max_length."""
    positions = getattr(encoder.model.config, "max_position_embeddings", None)
    if positions is None:
        return
    if encoder.model.config.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= encoder.model.config.pad_token_id + 1  # these count positions from behind the padding number
    if max_length > positions:
        raise MtlError(
            f"encoder.max_length: found {max_length}: this encoder has {positions} positions; set it to {positions} or less"
        )


def quiet_transformers() -> None:
    """Stops the bars and notices that transformers prints at every load."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
