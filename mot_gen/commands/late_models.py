"""The names of transformers' models, listed when one is asked for: without_models, list_later.

`import transformers` reads the source of all its models to learn what each defines, which takes half a CPU second. Most
commands use none of them, only its tokenizers of text.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

# What a lazy module of transformers knows of its names.
_FIELDS = ("__all__", "_class_to_module", "_import_structure", "_modules", "_object_missing_backend")
_PREFIX = "models"


class _Late:
    """Mixed into the class of the module `transformers`, until the models are listed."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)  # type: ignore[misc]  # transformers' own
        except AttributeError:
            if name.startswith("_") and name != "__all__":  # Python's own machinery asks; no model is called so
                raise
        vars(self).pop("_list_models")()
        return getattr(self, name)


def without_models(import_utils: ModuleType) -> None:
    """Let `transformers`, which has just run its `import_utils`, list no models. `list_later` takes it back."""
    define = vars(import_utils).get("define_import_structure")
    if define is not None and hasattr(import_utils, "_LazyModule"):
        vars(import_utils)["define_import_structure"] = _Empty(define)


class _Empty:
    """Stands for `define_import_structure`: as it is, but for all models together, of which it lists none."""

    def __init__(self, define: Callable):
        self.define = define
        self.path: Any = None  # of the models, once they have been asked for

    def __call__(self, path: Any, prefix: str | None = None) -> Any:
        if prefix != _PREFIX:
            return self.define(path, prefix)
        self.path = path
        return {frozenset(): {}}


def list_later(module: ModuleType, import_utils: ModuleType) -> bool:
    """Let `transformers` list its models when a name is asked for that it has not. False where this release is another
    kind of module, which must run again."""
    empty = vars(import_utils).get("define_import_structure")
    if not isinstance(empty, _Empty):
        return True
    vars(import_utils)["define_import_structure"] = empty.define
    lazy = vars(import_utils)["_LazyModule"]
    if type(module) is not lazy or empty.path is None:
        return False

    def list_models() -> None:
        structure = dict(empty.define(empty.path, _PREFIX))
        own = {name: set(names) for name, names in vars(module)["_import_structure"].items()}
        structure[frozenset()] = {**structure.get(frozenset(), {}), **own}
        whole = cast("Any", lazy)(module.__name__, module.__file__, structure)
        vars(module).update({name: vars(whole)[name] for name in _FIELDS})
        module.__class__ = lazy

    vars(module)["_list_models"] = list_models
    del vars(module)["__all__"]  # whoever asks for all names is given all
    module.__class__ = type(lazy.__name__, (_Late, lazy), {})
    return True
