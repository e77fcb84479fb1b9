"""What stands in modules while diffusers is imported lightly (`fast_start`): Later, replaced, stand_ins; and what is
changed in diffusers for good: do_not_ask_the_compiler, do_not_ask_peft, guiders_wait.

- `torch._dynamo` is asked for one decorator while diffusers is imported. The functions that were `decorated` are handed
  to the compiler when it is really imported.
- `scipy.stats` is named by schedulers that may need it. scipy finds it by itself when they do.
- A few classes of transformers, peft and diffusers are only compared with. A `LazyName` stands for each of them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial, wraps
from types import ModuleType
from typing import Any

_NOTHING = object()
decorated: list[Callable] = []  # what diffusers gave to torch._dynamo.allow_in_graph before the compiler was there


class LazyName:
    """Stands for a name in a module until it is called, read or compared with. Only then is the module imported."""

    def __init__(self, module: str, name: str, home: str):
        """home: the module that defines the name. While it is not loaded, nothing can be of that class."""
        self._place = (module, name, home)

    def _real(self) -> Any:
        module, name, _ = self._place
        return getattr(importlib.import_module(module), name)

    def __call__(self, *args, **kwargs):
        return self._real()(*args, **kwargs)

    def __getattr__(self, name: str):
        return getattr(self._real(), name)

    def __or__(self, other) -> Any:
        """As in an annotation, `Class | None`, which nobody reads."""
        return Any

    def __instancecheck__(self, instance) -> bool:
        return self.__subclasscheck__(type(instance))

    def __subclasscheck__(self, cls: type) -> bool:
        return self._place[2] in sys.modules and issubclass(cls, self._real())


class StandIn(ModuleType):
    """Found by `import` in place of a module, for a while."""


@contextmanager
def replaced(names: MutableMapping[str, Any], name: str, value) -> Iterator[None]:
    """Within, `names[name]` is the value. Afterwards it is what it was before, or nothing."""
    before = names.get(name, _NOTHING)
    names[name] = value
    try:
        yield
    finally:
        if before is _NOTHING:
            del names[name]
        else:
            names[name] = before


def _standing_in(module: str, name: str, home: str) -> AbstractContextManager:
    """Within, `module.name` is a `LazyName`, unless its home is loaded already."""
    if home in sys.modules:
        return nullcontext()
    return replaced(vars(importlib.import_module(module)), name, LazyName(module, name, home))


@contextmanager
def stand_ins(entry: str) -> Iterator[None]:
    """Within, what an entry imports finds stand-ins for the compiler, scipy's statistics and some classes. transformers
    and scipy are imported for those entries alone that name a class of theirs."""
    import torch.compiler

    with ExitStack() as stack:
        if "torch._dynamo" not in sys.modules:
            stack.enter_context(replaced(sys.modules, "torch._dynamo", _dynamo_stand_in()))
            stack.enter_context(replaced(vars(torch.compiler), "disable", _disable))
        if "scipy.stats" not in sys.modules:
            stack.enter_context(replaced(sys.modules, "scipy.stats", StandIn("scipy.stats")))
        tuners = "peft.tuners.tuners_utils"
        if tuners not in sys.modules:
            stand_in = StandIn(tuners)
            vars(stand_in)["BaseTunerLayer"] = LazyName(tuners, "BaseTunerLayer", tuners)
            stack.enter_context(replaced(sys.modules, tuners, stand_in))
        if entry.startswith("diffusers.pipelines"):
            stack.enter_context(_standing_in("transformers", "PreTrainedModel", "transformers.modeling_utils"))
            auto = "transformers.models.auto.image_processing_auto"
            stack.enter_context(_standing_in("transformers", "AutoImageProcessor", auto))
        if entry.startswith(("diffusers.pipelines", "diffusers.schedulers")):
            stack.enter_context(_standing_in("scipy", "integrate", "scipy.integrate"))
        yield


# ---------------------------------------------------------------- the compiler


def _dynamo_stand_in() -> StandIn:
    stand_in = StandIn("torch._dynamo")
    vars(stand_in)["allow_in_graph"] = _allow_in_graph
    return stand_in


def _allow_in_graph(fn: Callable) -> Callable:
    """torch._dynamo.allow_in_graph; without the compiler, the function is kept for when it is imported."""
    compiler = _compiler()
    if compiler is not None:
        return compiler.allow_in_graph(fn)
    decorated.append(fn)
    return fn


def _compiler() -> Any | None:
    """torch._dynamo if it has been imported. While it has not, nothing is compiled and nothing is being compiled."""
    module = sys.modules.get("torch._dynamo")
    return None if isinstance(module, StandIn) else module


def _disable(fn=None, recursive=True, *, reason=None):
    """torch.compiler.disable, which imports the compiler to decorate. This one asks for it when the function runs."""
    if fn is None:
        return partial(_disable, recursive=recursive, reason=reason)
    without_compiler: list[Callable] = []  # the function as the compiler decorates it, once that is there

    @wraps(fn)
    def disabled(*args, **kwargs):
        compiler = _compiler()
        if compiler is None:
            return fn(*args, **kwargs)
        if not without_compiler:
            without_compiler.append(compiler.disable(fn, recursive, reason=reason))
        return without_compiler[0](*args, **kwargs)

    return disabled


def _is_compiled(module) -> bool:
    """diffusers' is_compiled_module, which imports the compiler to ask."""
    compiler = _compiler()
    return compiler is not None and isinstance(module, compiler.OptimizedModule)


def do_not_ask_the_compiler(torch_utils: ModuleType) -> None:
    vars(torch_utils)["is_compiled_module"] = _is_compiled


def do_not_ask_peft(loading_utils: ModuleType) -> None:
    """diffusers imports peft to ask whether a model is one of its own. While peft is not imported, none can be."""
    vars(loading_utils)["is_peft_available"] = lambda: "peft" in sys.modules


def guiders_wait(pipeline_utils: ModuleType) -> None:
    """While a pipeline is loaded, each component's class is compared with diffusers' guiders. That imports them all;
    here a `LazyName` stands for their base class."""
    pipeline = vars(pipeline_utils)["DiffusionPipeline"]
    load = pipeline.from_pretrained.__func__

    @wraps(load)
    def from_pretrained(cls, *args, **kwargs):
        with _standing_in("diffusers", "BaseGuidance", "diffusers.guiders"):
            return load(cls, *args, **kwargs)

    pipeline.from_pretrained = classmethod(from_pretrained)
