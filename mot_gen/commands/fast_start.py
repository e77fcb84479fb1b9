"""The fast start of the `mot-gen` command: `install` lets diffusers be imported without what generation never uses.

`from diffusers import DiffusionPipeline` also imports the compiler (torch._dynamo, sympy, triton), every transformer
and UNet of diffusers, the loaders of LoRAs and scipy's statistics. That is three quarters of the time that
`mot-gen generate` would take to its first picture. After `install` each of these waits until somebody uses it.

Only the command calls `install`, in its own process. A library user imports diffusers as it comes: nothing in mot_gen
changes `sys.modules` or `sys.meta_path` by being imported.

How each part waits:

- `torch._dynamo` is asked for one decorator while diffusers is imported. The functions that were decorated are handed
  to the compiler when it is really imported.
- `scipy.stats` is named by schedulers that may need it. scipy finds it by itself when they do.
- A few classes of transformers, peft and diffusers are only compared with. A `_Later` stands for each of them.
- Four packages of diffusers import all their modules. They run their `__init__` when one of its names is asked for.
- diffusers lists the files of every installed package, to learn what their names are. It does so when it asks for one.

If a release of diffusers needs one of these at once, its module is imported again without any of this.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property, partial, wraps
from types import ModuleType
from typing import Any

# Packages whose `__init__` imports every module in them.
PACKAGES = (
    "diffusers.hooks",
    "diffusers.models.autoencoders",
    "diffusers.models.transformers",
    "diffusers.models.unets",
)
# Modules that are imported while the stand-ins are in place, with all that they import in turn.
ENTRIES = (
    "diffusers",
    "diffusers.configuration_utils",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.autoencoders.vae",
    "diffusers.models.autoencoders.vq_model",
    "diffusers.models.modeling_utils",
    "diffusers.pipelines.pipeline_utils",
    "diffusers.schedulers.scheduling_flow_match_euler_discrete",
)
log = logging.getLogger(__name__)
_LOCK = threading.RLock()
_NOTHING = object()
_decorated: list[Callable] = []  # what diffusers gave to torch._dynamo.allow_in_graph before the compiler was there


def install() -> None:
    """Let this process import diffusers lightly. Call it before diffusers is imported; later calls do nothing."""
    if "diffusers" in sys.modules or any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    loaders: dict[str, Callable] = dict.fromkeys(PACKAGES, _Waiting)
    loaders |= dict.fromkeys(ENTRIES, _WithStandIns)
    loaders["diffusers.utils.import_utils"] = _WithLatePackages
    loaders["torch._dynamo"] = partial(_Then, then=lambda dynamo: dynamo.allow_in_graph(_decorated))
    loaders["diffusers.utils.torch_utils"] = partial(_Then, then=_do_not_ask_the_compiler)
    loaders["diffusers.pipelines.pipeline_loading_utils"] = partial(_Then, then=_do_not_ask_peft)
    sys.meta_path.insert(0, _Finder(loaders))


# ---------------------------------------------------------------- stand-ins


class _Later:
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

    def __instancecheck__(self, instance) -> bool:
        return self.__subclasscheck__(type(instance))

    def __subclasscheck__(self, cls: type) -> bool:
        return self._place[2] in sys.modules and issubclass(cls, self._real())


class _StandIn(ModuleType):
    """Found by `import` in place of a module, for a while."""


@contextmanager
def _replaced(names: MutableMapping[str, Any], name: str, value) -> Iterator[None]:
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
    """Within, `module.name` is a `_Later`, unless its home is loaded already."""
    if home in sys.modules:
        return nullcontext()
    return _replaced(vars(importlib.import_module(module)), name, _Later(module, name, home))


@contextmanager
def _stand_ins(entry: str) -> Iterator[None]:
    """Within, what an entry imports finds stand-ins for the compiler, scipy's statistics and some classes. transformers
    and scipy are imported for those entries alone that name a class of theirs."""
    import torch.compiler

    with ExitStack() as stack:
        if "torch._dynamo" not in sys.modules:
            stack.enter_context(_replaced(sys.modules, "torch._dynamo", _dynamo_stand_in()))
            stack.enter_context(_replaced(vars(torch.compiler), "disable", _disable))
        if "scipy.stats" not in sys.modules:
            stack.enter_context(_replaced(sys.modules, "scipy.stats", _StandIn("scipy.stats")))
        tuners = "peft.tuners.tuners_utils"
        if tuners not in sys.modules:
            stand_in = _StandIn(tuners)
            vars(stand_in)["BaseTunerLayer"] = _Later(tuners, "BaseTunerLayer", tuners)
            stack.enter_context(_replaced(sys.modules, tuners, stand_in))
        if entry.startswith("diffusers.pipelines"):
            stack.enter_context(_standing_in("transformers", "PreTrainedModel", "transformers.modeling_utils"))
            auto = "transformers.models.auto.image_processing_auto"
            stack.enter_context(_standing_in("transformers", "AutoImageProcessor", auto))
        if entry.startswith(("diffusers.pipelines", "diffusers.schedulers")):
            stack.enter_context(_standing_in("scipy", "integrate", "scipy.integrate"))
        yield


# ---------------------------------------------------------------- the compiler


def _dynamo_stand_in() -> _StandIn:
    stand_in = _StandIn("torch._dynamo")
    vars(stand_in)["allow_in_graph"] = _allow_in_graph
    return stand_in


def _allow_in_graph(fn: Callable) -> Callable:
    """torch._dynamo.allow_in_graph; without the compiler, the function is kept for when it is imported."""
    compiler = _compiler()
    if compiler is not None:
        return compiler.allow_in_graph(fn)
    _decorated.append(fn)
    return fn


def _compiler() -> Any | None:
    """torch._dynamo if it has been imported. While it has not, nothing is compiled and nothing is being compiled."""
    module = sys.modules.get("torch._dynamo")
    return None if isinstance(module, _StandIn) else module


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


def _do_not_ask_the_compiler(torch_utils: ModuleType) -> None:
    vars(torch_utils)["is_compiled_module"] = _is_compiled


def _do_not_ask_peft(loading_utils: ModuleType) -> None:
    """diffusers imports peft to ask whether a model is one of its own. While peft is not imported, none can be."""
    vars(loading_utils)["is_peft_available"] = lambda: "peft" in sys.modules


def _guiders_wait(pipeline_utils: ModuleType) -> None:
    """While a pipeline is loaded, each component's class is compared with diffusers' guiders. That imports them all;
    here a `_Later` stands for their base class."""
    pipeline = vars(pipeline_utils)["DiffusionPipeline"]
    load = pipeline.from_pretrained.__func__

    @wraps(load)
    def from_pretrained(cls, *args, **kwargs):
        with _standing_in("diffusers", "BaseGuidance", "diffusers.guiders"):
            return load(cls, *args, **kwargs)

    pipeline.from_pretrained = classmethod(from_pretrained)


# ---------------------------------------------------------------- loaders


class _Finder(importlib.abc.MetaPathFinder):
    """Finds some modules as Python does, and gives each another loader."""

    def __init__(self, loaders: dict[str, Callable]):
        self.loaders = loaders

    def find_spec(self, name, path, target=None):
        if name not in self.loaders:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None:
            spec.loader = self.loaders[name](spec.loader)
        return spec


class _Then(importlib.abc.Loader):
    """The real loader, and what is to be done with the module when it has been run."""

    def __init__(self, real, then: Callable[[ModuleType], None]):
        self.real, self.then = real, then

    def create_module(self, spec):
        return self.real.create_module(spec)

    def exec_module(self, module):
        self.real.exec_module(module)
        self.then(module)


class _WithStandIns(importlib.abc.Loader):
    """Runs a module, and all that it imports in turn, while the stand-ins are in place."""

    within = False  # whether another of these is running already

    def __init__(self, real):
        self.real = real

    def create_module(self, spec):
        return self.real.create_module(spec)

    def exec_module(self, module):
        if _WithStandIns.within:
            self.real.exec_module(module)
        else:
            self._outermost(module)
        if module.__name__ == "diffusers.pipelines.pipeline_utils":
            _guiders_wait(module)

    def _outermost(self, module) -> None:
        _WithStandIns.within = True
        try:
            with _stand_ins(module.__name__):
                self.real.exec_module(module)
        except Exception:
            log.debug("the fast start does not suit this diffusers; importing it as it comes", exc_info=True)
            self.real.exec_module(module)
        finally:
            _WithStandIns.within = False


class _WithLatePackages(_Then):
    """Runs a module for which `importlib.metadata.packages_distributions` is made when it is looked into."""

    def __init__(self, real):
        super().__init__(real, then=lambda module: None)

    def exec_module(self, module):
        made = importlib.metadata.packages_distributions
        with _replaced(vars(importlib.metadata), "packages_distributions", lambda: _LateMapping(made)):
            super().exec_module(module)


class _LateMapping(Mapping):
    """A mapping that is made when it is first looked into."""

    def __init__(self, make: Callable[[], Mapping]):
        self._make = make

    @cached_property
    def _made(self) -> Mapping:
        return self._make()

    def __getitem__(self, key):
        return self._made[key]

    def __iter__(self):
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


class _WaitingPackage(ModuleType):
    """A package whose `__init__` runs when a name is asked for that is none of its loaded modules."""

    def __getattr__(self, name: str):
        # What Python's own machinery looks for must not wake it: __all__ alone belongs to a package.
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with _LOCK:
            loader = vars(self)["__spec__"].loader
            if type(self) is _WaitingPackage and not loader.running:
                loader.run(self)
        return ModuleType.__getattribute__(self, name)  # not super(): by now it is no _WaitingPackage any more


class _Waiting(importlib.abc.Loader):
    """The loader of a `_WaitingPackage`."""

    def __init__(self, real):
        self.real, self.running = real, False

    def create_module(self, spec):
        return _WaitingPackage(spec.name)

    def exec_module(self, module):
        """Not yet: see `run`."""

    def run(self, module: _WaitingPackage) -> None:
        self.running = True  # a circular import among its modules must not run it again
        try:
            self.real.exec_module(module)
            module.__class__ = ModuleType  # type: ignore[assignment]  # it is a plain module from here on
        finally:
            self.running = False
