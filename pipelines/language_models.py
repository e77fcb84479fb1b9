"""The former place of `mot_gen.families.language_models`, whose names are still found here."""

import importlib

_NAMES = ("from_language_model", "save", "to_language_model")


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # The families stand above the pipelines; a plain import here would be a circle.
    return getattr(importlib.import_module("mot_gen.families.language_models"), name)
