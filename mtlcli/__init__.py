"""mtlcli: multi-task fine-tuning of text encoders, by the command ``mtl`` and by the functions below.

The functions are in `mtlcli.api`, which imports torch; they are imported when first used, so that ``import mtlcli`` is quick.
"""

# Type checkers take this name for true; `typing` would be most of what `import mtlcli` costs.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from mtlcli.api import (
        Comparison,
        Config,
        Estimate,
        Evaluation,
        Event,
        MtlError,
        Prediction,
        Predictor,
        Run,
        compare,
        evaluate,
        load,
        load_config,
        train,
    )

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "Config",
    "Estimate",
    "Evaluation",
    "Event",
    "MtlError",
    "Prediction",
    "Predictor",
    "Run",
    "compare",
    "evaluate",
    "load",
    "load_config",
    "train",
]


def __getattr__(name: str) -> object:
    """Import a name of the API when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'mtlcli' has no attribute {name!r}")
    from mtlcli import api

    return getattr(api, name)


def __dir__() -> list[str]:
    # The names of the API are no globals of this module, so `dir` and completion would miss them.
    return [*globals(), *__all__]
