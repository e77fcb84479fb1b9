"""diffusers without what generation never uses: ConfigMixin, ModelMixin, register_to_config, DiffusionPipeline,
AutoencoderKL, VQModel, what these two return, BaseOutput, ImagePipelineOutput; and `loading`, for the time in which
components are loaded.

`from diffusers import DiffusionPipeline` brings the compiler (torch._dynamo, sympy, triton), every transformer and UNet
of diffusers, the loaders of LoRAs and scipy's statistics: three quarters of the time that `mot-gen generate` would take
to its first picture. Here each of these waits until somebody uses it. Nothing is left out, and whoever imports
diffusers, before or after, finds it whole:

- `torch._dynamo` is asked for one decorator, which is given its functions when the compiler is really imported;
- `scipy.stats` is named by schedulers that may need it, and scipy finds it by itself when they do;
- two classes of transformers, one of peft, which brings all of the above where it is installed, one of diffusers are
  compared with, or called in a corner: a `_Later` stands for them;
- four packages of diffusers import all their modules; these run their `__init__` when one of its names is asked for.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial, wraps
from types import ModuleType

PACKAGES = (
    "diffusers.hooks",
    "diffusers.models.autoencoders",
    "diffusers.models.transformers",
    "diffusers.models.unets",
)
_LOCK = threading.RLock()
_NOTHING = object()


class _Later:
    """Stands for a name of a module that imports its parts on demand, until it is called, read or compared with."""

    def __init__(self, module: str, name: str, home: str):
        """home: the module that defines the name; while it is not loaded, nothing can be of that class."""
        self._place = (module, name, home)

    def _real(self):
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


@contextmanager
def _replaced(names: dict, name: str, value) -> Iterator[None]:
    """`names[name]` is the value, and afterwards what it was before, or nothing."""
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
    """`module.name` is a `_Later`, unless its home is loaded already."""
    if home in sys.modules:
        return nullcontext()
    return _replaced(vars(importlib.import_module(module)), name, _Later(module, name, home))


class _WaitingPackage(ModuleType):
    """A package whose `__init__` runs when a name is asked for that is none of its loaded modules."""

    def __getattr__(self, name: str):
        # What Python's own machinery looks for must not wake it: __all__ alone belongs to a package.
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with _LOCK:
            if type(self) is _WaitingPackage and not self.__spec__.loader.running:
                self.__spec__.loader.run(self)
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
            module.__class__ = ModuleType
        finally:
            self.running = False


class _Then(importlib.abc.Loader):
    """The real loader, and what is to be done with the module when it has been run."""

    def __init__(self, real, then: Callable[[ModuleType], None]):
        self.real, self.then = real, then

    def create_module(self, spec):
        return self.real.create_module(spec)

    def exec_module(self, module):
        self.real.exec_module(module)
        self.then(module)


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


class _StandIn(ModuleType):
    """Found by `import` in place of a module, for a while."""


def _dynamo_later() -> _StandIn:
    """A stand-in for torch._dynamo that keeps what is decorated for when it is imported."""
    decorated: list = []

    def allow_in_graph(fn):
        if _compiler():
            return _compiler().allow_in_graph(fn)
        decorated.append(fn)
        return fn

    sys.meta_path.insert(
        0, _Finder({"torch._dynamo": lambda real: _Then(real, lambda dynamo: dynamo.allow_in_graph(decorated))})
    )
    stand_in = _StandIn("torch._dynamo")
    stand_in.allow_in_graph = allow_in_graph
    return stand_in


def _compiler() -> ModuleType | None:
    """torch._dynamo if it has been imported. While it has not, nothing is compiled and nothing is being compiled."""
    module = sys.modules.get("torch._dynamo")
    return None if module is None or isinstance(module, _StandIn) else module


def _disable(fn=None, recursive=True, *, reason=None):
    """torch.compiler.disable, which imports the compiler to decorate; this one asks for it when the function runs."""
    if fn is None:
        return partial(_disable, recursive=recursive, reason=reason)

    @wraps(fn)
    def disabled(*args, **kwargs):
        if not _compiler():
            return fn(*args, **kwargs)
        if not hasattr(disabled, "_disabled"):
            disabled._disabled = _compiler().disable(fn, recursive, reason=reason)
        return disabled._disabled(*args, **kwargs)

    return disabled


def _is_compiled(module) -> bool:
    """diffusers' is_compiled_module, which imports the compiler to ask."""
    return _compiler() is not None and isinstance(module, _compiler().OptimizedModule)


def _peft_is_loaded() -> bool:
    """diffusers' is_peft_available where it imports peft to ask whether a model is one of its own."""
    return "peft" in sys.modules


@contextmanager
def _without_what_waits() -> Iterator[None]:
    import torch.compiler

    with ExitStack() as stack:
        if "torch._dynamo" not in sys.modules:
            stack.enter_context(_replaced(sys.modules, "torch._dynamo", _dynamo_later()))
            stack.enter_context(_replaced(vars(torch.compiler), "disable", _disable))
            torch_utils = importlib.import_module("diffusers.utils.torch_utils")
            stack.enter_context(_replaced(vars(torch_utils), "is_compiled_module", _is_compiled))
        if "scipy.stats" not in sys.modules:
            stack.enter_context(_replaced(sys.modules, "scipy.stats", _StandIn("scipy.stats")))
        if (tuners := "peft.tuners.tuners_utils") not in sys.modules:
            stand_in = _StandIn(tuners)
            stand_in.BaseTunerLayer = _Later(tuners, "BaseTunerLayer", tuners)
            stack.enter_context(_replaced(sys.modules, tuners, stand_in))
        stack.enter_context(_standing_in("scipy", "integrate", "scipy.integrate"))
        stack.enter_context(_standing_in("transformers", "PreTrainedModel", "transformers.modeling_utils"))
        auto = "transformers.models.auto.image_processing_auto"
        stack.enter_context(_standing_in("transformers", "AutoImageProcessor", auto))
        if waiting := [name for name in PACKAGES if name not in sys.modules]:
            sys.meta_path.insert(0, _Finder(dict.fromkeys(waiting, _Waiting)))
        yield


def loading() -> AbstractContextManager:
    """For `DiffusionPipeline.from_pretrained`, which compares each component's class with its guiders' base class."""
    return _standing_in("diffusers", "BaseGuidance", "diffusers.guiders")


# A release of diffusers that needs at once what is here kept waiting is imported again, as it comes.
with suppress(Exception), _without_what_waits():
    # Named for what it imports: the pipelines' other parts, and the scheduler of flows.
    importlib.import_module("diffusers.pipelines.pipeline_utils")
    importlib.import_module("diffusers.schedulers.scheduling_flow_match_euler_discrete")
    importlib.import_module("diffusers.pipelines.pipeline_loading_utils").is_peft_available = _peft_is_loaded

from diffusers import AutoencoderKL, ConfigMixin, DiffusionPipeline, ModelMixin, VQModel  # noqa: E402
from diffusers.configuration_utils import register_to_config  # noqa: E402
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution  # noqa: E402
from diffusers.models.modeling_outputs import AutoencoderKLOutput  # noqa: E402
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput  # noqa: E402
from diffusers.utils import BaseOutput  # noqa: E402

__all__ = [
    "AutoencoderKL",
    "AutoencoderKLOutput",
    "BaseOutput",
    "ConfigMixin",
    "DecoderOutput",
    "DiagonalGaussianDistribution",
    "DiffusionPipeline",
    "ImagePipelineOutput",
    "ModelMixin",
    "VQModel",
    "loading",
    "register_to_config",
]
