"""Find, import and describe plugins by family and name."""

from mtlcli.registry.builtins import FAMILIES, METHODS, Family, families_of_flag
from mtlcli.registry.faults import plugin_call, require
from mtlcli.registry.lookup import (
    LOCAL,
    Entry,
    base_of,
    built_in,
    check_options,
    elsewhere,
    entries,
    entry_of,
    family_named,
    family_of,
    find,
    load,
    names,
    options_model,
)

__all__ = [
    "FAMILIES",
    "LOCAL",
    "METHODS",
    "Entry",
    "Family",
    "base_of",
    "built_in",
    "check_options",
    "elsewhere",
    "entries",
    "entry_of",
    "families_of_flag",
    "family_named",
    "family_of",
    "find",
    "load",
    "names",
    "options_model",
    "plugin_call",
    "require",
]
