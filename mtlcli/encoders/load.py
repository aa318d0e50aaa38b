"""From an encoder's name to a loaded model and tokenizer: plugin, local folder or Hub id, in this order."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlcli import registry
from mtlcli.architectures.base import Inputs, run_encoder
from mtlcli.config.schema import EncoderConfig, is_encoder_plugin
from mtlcli.encoders.base import EncoderFacts, EncoderSource
from mtlcli.errors import MtlError, did_you_mean
from mtlcli.hub import PROBE_SECONDS, hub_answers, offline

NEEDED = ["*.json", "*.safetensors", "*.txt", "*.model"]

PADDING_TOLERANCE = 1e-3
"""Largest change of a hidden state by padding, relative to the largest hidden state: 1e-6 is rounding, 1e-1 mixing."""


@dataclass(frozen=True)
class LoadedEncoder:
    """A transformers model without a task head, its fast tokenizer, and the width of its hidden states."""

    model: Any
    tokenizer: Any
    dim: int


def plugin_of(config: EncoderConfig) -> EncoderSource | None:
    """Build the encoder plugin of this name with its options; None for a folder or Hub id."""
    if not is_encoder_plugin(config.name):
        return None
    plugin: EncoderSource = config.make()
    return plugin


def encoder_folder(config: EncoderConfig, facts: EncoderFacts) -> Path:
    """Return the folder of the encoder's files. Raises MtlError within 10 seconds, with remedies, if there is none."""
    quiet_transformers()
    plugin = plugin_of(config)
    if plugin is not None:
        return plugin.folder(facts)
    path = Path(config.name).expanduser()
    # A path is never sent to the Hub, even if it does not exist.
    if path.is_dir() or config.name.startswith((".", "/", "~")) or "\\" in config.name:
        return _local(path)
    return _from_hub(config.name)


def _local(path: Path) -> Path:
    absolute = path.absolute()
    if not path.is_dir():
        siblings = (
            [folder.name for folder in absolute.parent.iterdir() if folder.is_dir()] if absolute.parent.is_dir() else []
        )
        raise MtlError(f"encoder: there is no folder {absolute}{did_you_mean(absolute.name, siblings)}")
    if not (path / "config.json").is_file():
        inside = next((config.parent for config in sorted(path.glob("*/config.json"))), None)
        hint = f'; did you mean "{inside}"?' if inside else ""
        raise MtlError(f"encoder: {absolute} has no config.json; expected a model folder of transformers{hint}")
    return path


def _from_hub(name: str) -> Path:
    # The Hub's ids are ASCII; not every version of its library checks that before it asks.
    if name.count("/") > 1 or not name.isascii() or any(character.isspace() for character in name):
        raise MtlError(f'encoder: "{name}" is neither a folder nor a Hub id (NAME or OWNER/NAME)')
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        # The cache comes first, so that a run works offline.
        cached = Path(snapshot_download(name, local_files_only=True, allow_patterns=NEEDED))
        if (cached / "config.json").is_file() and list(cached.glob("*.safetensors")):
            return cached
    except HFValidationError as error:
        raise MtlError(f'encoder: "{name}" is neither a folder nor a Hub id: {error}') from error
    except OSError:  # not in the cache, or only a part of it
        pass
    plugins = registry.names("encoders")
    remedies = (
        f"looked in {constants.HF_HUB_CACHE} first; give a folder (--encoder DIR), an installed encoder "
        f"({', '.join(plugins)}), or go online (proxy, HF_ENDPOINT){did_you_mean(name, plugins)}"
    )
    if not hub_answers():
        reason = "HF_HUB_OFFLINE is set" if offline() else f"the Hub does not answer within {PROBE_SECONDS:g} s"
        raise MtlError(
            f'encoder: there is no folder "{name}", and it cannot be downloaded from the Hub ({reason}): {remedies}'
        )
    try:
        return Path(snapshot_download(name, allow_patterns=NEEDED))
    except Exception as error:  # the library raises many classes, including those of the network library it uses
        raise MtlError(
            f'encoder: "{name}" could not be downloaded from the Hub ({_first_line(error)}): {remedies}'
        ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def load_encoder(folder: Path, *, weights: bool = True) -> LoadedEncoder:
    """Load model and tokenizer from a folder; without `weights` the model is built from config.json with random weights.

    Raises:
        MtlError: transformers cannot load the folder as a text encoder; weights are damaged, missing or of other sizes; the
            tokenizer is missing, has no fast form, or produces ids that the model has no embedding for.
    """
    quiet_transformers()
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer

    missing: set[str] = set()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        # AutoModel would build encoder and decoder for a folder that holds the encoder half of T5 alone.
        is_half = any(name.endswith("EncoderModel") for name in config.architectures or ())
        auto_class = AutoModelForTextEncoding if is_half else AutoModel
        if weights:
            model, info = auto_class.from_pretrained(
                folder, local_files_only=True, dtype="float32", output_loading_info=True
            )
            missing = {key for key in info["missing_keys"] if "pooler" not in key}  # no head reads a pooler
        else:
            model = auto_class.from_config(config)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # StrictDataclassError reports a value of the wrong type in config.json.
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise MtlError(f"encoder: {folder} cannot be loaded by transformers: {_first_line(error)}") from error
    except SafetensorError as error:
        raise MtlError(f"encoder: the weights in {folder} are damaged ({error}); download the folder again") from error
    except RuntimeError as error:
        # transformers names this option where sizes differ; any other RuntimeError is not about the files.
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise MtlError(f"encoder: the weights in {folder} do not have the sizes that its config.json states") from error
    # transformers fills missing weights with random numbers and only logs a warning.
    if missing:
        raise MtlError(
            f"encoder: the weights in {folder} do not match its config.json: {len(missing)} are missing, such as {min(missing)}"
        )
    dim = getattr(model.config, "hidden_size", None)
    if dim is None or (getattr(model.config, "is_encoder_decoder", False) and not is_half):
        raise MtlError(f"encoder: {folder} is a {model.config.model_type} model; expected a text encoder, such as BERT")
    _check_tokenizer(folder, model, tokenizer)
    return LoadedEncoder(model, tokenizer, int(dim))


def _check_tokenizer(folder: Path, model: Any, tokenizer: Any) -> None:
    """Check that every id of the tokenizer has an embedding, and omit segment ids if the model does not use them."""
    if not getattr(tokenizer, "is_fast", False):
        raise MtlError(f"encoder: {folder} has no fast tokenizer (tokenizer.json); convert it with transformers first")
    # Without its file, transformers builds a tokenizer that knows special tokens alone.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise MtlError(f"encoder: {folder} has no tokenizer (tokenizer.json); copy it from the source of the weights")
    words = model.get_input_embeddings().weight.shape[0]
    # The largest id, not the size: ids can have gaps. A model can have more embeddings than ids.
    largest = max(tokenizer.get_vocab().values())
    if largest >= words:
        raise MtlError(
            f"encoder: the tokenizer in {folder} has ids up to {largest}, but the model has embeddings for 0 to {words - 1}; "
            "use the tokenizer that belongs to the model"
        )
    if "token_type_ids" not in tokenizer.model_input_names:
        return
    segments = _segments(model)
    if segments < 2:
        # The tokenizer then returns no segment ids, and no batch holds any.
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        return
    # A pair has the largest segment id that the tokenizer produces.
    pair = tokenizer.backend_tokenizer.encode("a", "b").type_ids
    if max(pair, default=0) >= segments:
        raise MtlError(
            f"encoder: the tokenizer in {folder} has segment ids up to {max(pair)}, but the model has embeddings for 0 to "
            f"{segments - 1}; use the tokenizer that belongs to the model"
        )


def _segments(model: Any) -> float:
    """Return the number of segment ids that a model distinguishes.

    The signature does not tell: RoBERTa accepts `token_type_ids` with an embedding for 0 alone, and GPT-2 adds word
    embeddings for them. XLNet and Funnel have no table but compare ids, so any number is valid.
    """
    if any(name.endswith("seg_embed") for name, _ in model.named_parameters()):
        return float("inf")
    return int(getattr(model.config, "type_vocab_size", None) or 0)


def check_length(encoder: LoadedEncoder, max_length: int) -> None:
    """Raise MtlError if the model has fewer positions than max_length."""
    positions = getattr(encoder.model.config, "max_position_embeddings", None)
    if positions is None or positions <= 0:  # relative positions: T5 has no value, XLNet has -1
        return
    table = next((part for name, part in encoder.model.named_modules() if name.endswith(".position_embeddings")), None)
    padding = getattr(table, "padding_idx", None)
    if padding is not None:
        positions -= padding + 1  # RoBERTa and its descendants number positions from padding_idx + 1
    if max_length > positions:
        raise MtlError(
            f"encoder.max_length: found {max_length}, but this encoder has {positions} positions; set it to {positions} or less"
        )


def check_padding(encoder: LoadedEncoder) -> None:
    """Raise MtlError if a text has other hidden states in a padded batch than alone, as with FNet and Funnel.

    Results would then depend on which texts share a batch, and cached features would be wrong.
    """
    import torch

    model = encoder.model
    words = model.get_input_embeddings().weight.shape[0]
    device = model.get_input_embeddings().weight.device
    # A decoder's tokenizer can have no padding token; masked tokens can have any id.
    pad = getattr(encoder.tokenizer, "pad_token_id", None) or 0
    text = torch.tensor([[words - 1, words - 2, words - 1]], device=device)
    padded = torch.cat([text, torch.full((1, 4), pad, device=device)], dim=1)
    mask = torch.arange(padded.shape[1], device=device).unsqueeze(0) < text.shape[1]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = run_encoder(model, Inputs(text, None, None)).last
            together = run_encoder(model, Inputs(padded, mask, None)).last[:, : text.shape[1]]
    finally:
        model.train(was_training)
    if alone.shape != together.shape or (alone - together).abs().max() > PADDING_TOLERANCE * alone.abs().max():
        raise MtlError(
            f"encoder: {model.config.model_type} mixes padding into a text's hidden states, so results would depend on the batch; "
            "use an encoder that masks padding, such as BERT"
        )


def quiet_transformers() -> None:
    """Disable the progress bars and notices that transformers prints at every load."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
