"""From an encoder's name to a loaded model and tokenizer: plugin, local folder or hub id, in this order."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlcli import registry
from mtlcli.config import EncoderConfig, is_encoder_plugin
from mtlcli.data.sources import PROBE_SECONDS, hub_answers, offline
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
    # The hub's ids are ASCII; not every version of its library checks that before it asks.
    if name.count("/") > 1 or not name.isascii() or any(character.isspace() for character in name):
        raise MtlError(f'encoder: "{name}" is neither a folder nor a hub id (NAME or OWNER/NAME)')
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        found = Path(snapshot_download(name, local_files_only=True, allow_patterns=NEEDED))
        if (found / "config.json").is_file() and list(found.glob("*.safetensors")):
            return found
    except HFValidationError as error:
        raise MtlError(f'encoder: "{name}" is neither a folder nor a hub id: {error}') from error
    except OSError:  # not in the cache, or not all of it
        pass
    known = registry.names("encoders")
    cures = (
        f"looked in {constants.HF_HUB_CACHE} first; give a folder (--encoder DIR), an installed encoder "
        f"({', '.join(known)}), or go online (proxy, HF_ENDPOINT){did_you_mean(name, known)}"
    )
    if not hub_answers():
        why = "HF_HUB_OFFLINE is set" if offline() else f"the hub does not answer within {PROBE_SECONDS:g} s"
        raise MtlError(f'encoder: no folder is called "{name}", and as a hub id it is out of reach ({why}): {cures}')
    try:
        return Path(snapshot_download(name, allow_patterns=NEEDED))
    except Exception as error:  # the library raises many kinds, its own and those of the network library of its version
        raise MtlError(f'encoder: "{name}" cannot be had from the hub ({_first_line(error)}): {cures}') from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def load_encoder(folder: Path, *, weights: bool = True) -> LoadedEncoder:
    """Loads model and tokenizer from a folder; without `weights` the model is made from config.json alone.

    Raises MtlError for a folder that transformers cannot load as an encoder, for weights that are damaged, missing or do not
    fit, and for a tokenizer that knows no words or has no fast form.
    """
    quiet_transformers()
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    missing: set[str] = set()
    try:
        if weights:
            model, info = AutoModel.from_pretrained(
                folder, local_files_only=True, dtype="float32", output_loading_info=True
            )
            missing = {key for key in info["missing_keys"] if "pooler" not in key}  # no head of ours reads a pooler
        else:
            model = AutoModel.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise MtlError(f"encoder: {folder} cannot be loaded by transformers: {_first_line(error)}") from error
    except SafetensorError as error:
        raise MtlError(f"encoder: the weights in {folder} are damaged: {error}; get the folder anew") from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise MtlError(f"encoder: the weights in {folder} are not of the sizes that its config.json says") from error
    if missing:
        raise MtlError(
            f"encoder: the weights in {folder} are not those of its config.json: {len(missing)} are missing, such as {min(missing)}"
        )
    if not getattr(tokenizer, "is_fast", False):
        raise MtlError(f"encoder: {folder} has no fast tokenizer (tokenizer.json); convert it with transformers first")
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise MtlError(f"encoder: {folder} has no tokenizer (tokenizer.json); copy it from where the weights come from")
    dim = getattr(model.config, "hidden_size", None)
    if dim is None or getattr(model.config, "is_encoder_decoder", False):
        raise MtlError(
            f"encoder: {folder} is a {model.config.model_type} model; expected an encoder of text, such as BERT"
        )
    words = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > words:
        raise MtlError(
            f"encoder: the tokenizer in {folder} has {len(tokenizer)} tokens, its model {words}; they differ"
        )
    return LoadedEncoder(model, tokenizer, int(dim))


def check_length(encoder: LoadedEncoder, max_length: int) -> None:
    """Raises MtlError when the model has fewer positions than max_length."""
    positions = getattr(encoder.model.config, "max_position_embeddings", None)
    if not positions:
        return
    table = next((part for name, part in encoder.model.named_modules() if name.endswith(".position_embeddings")), None)
    padding = getattr(table, "padding_idx", None)
    if padding is not None:
        positions -= padding + 1  # RoBERTa and its like count positions from behind the padding number
    if max_length > positions:
        raise MtlError(
            f"encoder.max_length: found {max_length}: this encoder has {positions} positions; set it to {positions} or less"
        )


def quiet_transformers() -> None:
    """Stops the bars and notices that transformers prints at every load."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
