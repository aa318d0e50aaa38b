"""LoRA in the files of the package peft: adapter_config.json and adapter_model.safetensors. The package itself is not needed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mtlcli.errors import MtlError
from mtlcli.files import load_tensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
MAGNITUDE = "lora_magnitude_vector"


@dataclass(frozen=True)
class PeftChange:
    """Hold the change of one module: A (rank, in), B (out, rank) and, of DoRA, the magnitudes (out,)."""

    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None


@dataclass(frozen=True)
class PeftLora:
    """Hold an adapter: its changes by the names of modules, and the numbers that scale them.

    Attributes:
        transposed: whether the modules store their weights as (in, out), as GPT-2 does.
    """

    changes: Mapping[str, PeftChange]
    alpha: float
    rank: int
    rank_stabilized: bool = False
    dropout: float = 0.0
    transposed: bool = False

    @property
    def scale(self) -> float:
        """Return the factor of ``B A``."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilized else self.rank)


def config_of(lora: PeftLora, base: str) -> dict[str, Any]:
    """Return the content of adapter_config.json, for an encoder of this name or in this folder."""
    return {
        "peft_type": "LORA", "task_type": "FEATURE_EXTRACTION", "base_model_name_or_path": base, "inference_mode": True,
        "r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout, "use_rslora": lora.rank_stabilized, "bias": "none",
        "use_dora": any(change.magnitude is not None for change in lora.changes.values()),
        "target_modules": list(lora.changes), "fan_in_fan_out": lora.transposed,
    }  # fmt: skip


def tensors_of(lora: PeftLora) -> dict[str, Tensor]:
    """Return the tensors of adapter_model.safetensors."""
    tensors = {}
    for name, change in lora.changes.items():
        # safetensors rejects tensors that are not contiguous or share memory.
        tensors[f"{PREFIX}{name}.lora_A.weight"] = change.a.detach().cpu().contiguous().clone()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = change.b.detach().cpu().contiguous().clone()
        if change.magnitude is not None:
            tensors[f"{PREFIX}{name}.{MAGNITUDE}"] = change.magnitude.detach().cpu().clone()
    return tensors


def read(folder: Path) -> PeftLora:
    """Read an adapter.

    Raises:
        MtlError: the folder holds no LoRA of peft, or one with options that cannot be read.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MtlError(f"{folder / CONFIG}: cannot be read ({error}); expected a folder that peft saved") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise MtlError(f"{folder / CONFIG}: found peft_type {kind}; expected LORA")
    # One rank and one scale hold for all modules of a LoRA here, and whole modules have no place in it.
    for key in ("rank_pattern", "alpha_pattern", "modules_to_save"):
        if config.get(key):
            raise MtlError(
                f"{folder / CONFIG}: {key} is set; expected the same rank and alpha for every module, and no others"
            )
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_tensors(folder / WEIGHTS).items():
        # Keys are PREFIX + module + .lora_A.weight or .lora_B.weight; the magnitudes of DoRA have no .weight.
        name, _, kind = key.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        parts.setdefault(name, {})[kind] = tensor
    changes = {}
    for name, tensors in parts.items():
        if not {"lora_A", "lora_B"} <= tensors.keys():
            raise MtlError(f"{folder / WEIGHTS}: {name} has {', '.join(tensors)}; expected lora_A and lora_B")
        changes[name] = PeftChange(tensors["lora_A"], tensors["lora_B"], tensors.get(MAGNITUDE))
    return PeftLora(changes, float(config["lora_alpha"]), int(config["r"]), bool(config.get("use_rslora")))
