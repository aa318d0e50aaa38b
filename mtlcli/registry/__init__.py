"""Plugins by family and name."""

from mtlcli.registry.builtins import FAMILIES, Family
from mtlcli.registry.lookup import (
    Entry,
    base_of,
    check_options,
    elsewhere,
    entries,
    family_named,
    family_of,
    find,
    load,
    names,
    options_model,
)

__all__ = [
    "FAMILIES",
    "Entry",
    "Family",
    "base_of",
    "check_options",
    "elsewhere",
    "entries",
    "family_named",
    "family_of",
    "find",
    "load",
    "names",
    "options_model",
]
