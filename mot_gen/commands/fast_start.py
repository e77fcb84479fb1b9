"""The fast start of the `mot-gen` command: `install` lets diffusers be imported without what generation never uses.

`from diffusers import DiffusionPipeline` also imports the compiler (torch._dynamo, sympy, triton), every transformer
and UNet of diffusers, the loaders of LoRAs and scipy's statistics. That is three quarters of the time that
`mot-gen generate` would take to its first picture. After `install` each of these waits until somebody uses it.

Only the command calls `install`, in its own process. A library user imports diffusers as it comes: nothing in mot_gen
changes `sys.modules` or `sys.meta_path` by being imported.

How each part waits:

- The compiler, scipy's statistics and a few classes are only named while diffusers is imported. Others stand there in
  their places (`stand_ins`).
- Four packages of diffusers and two of torchmetrics import all their modules. They run their `__init__` when one of its
  names is asked for.
- diffusers' quantizers are only named, and bring accelerate. `LazyName` objects stand for them.
- diffusers lists the files of every installed package, to learn what their names are. It does so when it asks for one.
- transformers lists what its models define, when one is asked for (`late_models`).
- Python's garbage collector waits while torch is imported, and never looks at what torch made then.

If a release of diffusers needs one of these at once, its module is imported again without any of this.
"""

from __future__ import annotations

import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from types import ModuleType
from typing import Any

from mot_gen.commands.late_models import list_later, without_models
from mot_gen.commands.stand_ins import (
    LazyName,
    decorated,
    do_not_ask_peft,
    do_not_ask_the_compiler,
    guiders_wait,
    replaced,
    stand_ins,
)

# Packages whose `__init__` imports every module in them.
PACKAGES = (
    "diffusers.hooks",
    "diffusers.models.autoencoders",
    "diffusers.models.transformers",
    "diffusers.models.unets",
    "torchmetrics.utilities",
)
# Another, which brings transformers, torchvision and scipy's signals. `torchmetrics.metric` needs its logger alone.
METRICS = "torchmetrics"
# Another, of which models and pipelines name three classes.
QUANTIZERS = "diffusers.quantizers"
QUANTIZED = {
    "DiffusersAutoQuantizer": "diffusers.quantizers.auto",
    "DiffusersQuantizer": "diffusers.quantizers.base",
    "PipelineQuantizationConfig": "diffusers.quantizers.pipe_quant_config",
}
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


def install() -> None:
    """Let this process import diffusers lightly. Call it before diffusers is imported; later calls do nothing."""
    if "diffusers" in sys.modules or any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    loaders: dict[str, Callable] = dict.fromkeys(PACKAGES, _WaitingLoader)
    loaders |= dict.fromkeys(ENTRIES, _WithStandIns)
    loaders[METRICS] = partial(_WaitingLoader, names={"_logger": logging.getLogger(METRICS)})
    loaders[QUANTIZERS] = partial(
        _WaitingLoader, names={name: LazyName(QUANTIZERS, name, home) for name, home in QUANTIZED.items()}
    )
    loaders["torch"] = _Uncollected
    loaders["transformers"] = _WithLateModels
    loaders["transformers.utils.import_utils"] = partial(_ThenLoader, then=without_models)
    loaders["diffusers.utils.import_utils"] = _WithLatePackages
    loaders["torch._dynamo"] = partial(_ThenLoader, then=lambda dynamo: dynamo.allow_in_graph(decorated))
    loaders["diffusers.utils.torch_utils"] = partial(_ThenLoader, then=do_not_ask_the_compiler)
    loaders["diffusers.pipelines.pipeline_loading_utils"] = partial(_ThenLoader, then=do_not_ask_peft)
    sys.meta_path.insert(0, _Finder(loaders))


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


class _ThenLoader(importlib.abc.Loader):
    """The real loader, and what is to be done with the module when it has been run."""

    def __init__(self, real, then: Callable[[ModuleType], None]):
        self.real, self.then = real, then

    def create_module(self, spec):
        return self.real.create_module(spec)

    def exec_module(self, module):
        self.real.exec_module(module)
        self.then(module)


class _Uncollected(_ThenLoader):
    """Runs a module without collecting garbage. What it made stays, so later collections leave it out too.

    Torch makes some 160,000 objects. To look through them again and again took a fifth of what `mot-gen plan` needs.
    """

    def __init__(self, real):
        super().__init__(real, then=lambda module: gc.freeze())

    def exec_module(self, module):
        collects = gc.isenabled()
        gc.disable()
        try:
            super().exec_module(module)
        finally:
            if collects:
                gc.enable()


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
            guiders_wait(module)

    def _outermost(self, module) -> None:
        _WithStandIns.within = True
        try:
            with stand_ins(module.__name__):
                self.real.exec_module(module)
        except Exception:
            log.debug("the fast start does not suit this diffusers; importing it as it comes", exc_info=True)
            self.real.exec_module(module)
        finally:
            _WithStandIns.within = False


class _WithLatePackages(_ThenLoader):
    """Runs a module for which `importlib.metadata.packages_distributions` is made when it is looked into."""

    def __init__(self, real):
        super().__init__(real, then=lambda module: None)

    def exec_module(self, module):
        made = importlib.metadata.packages_distributions
        with replaced(vars(importlib.metadata), "packages_distributions", lambda: _LateMapping(made)):
            super().exec_module(module)


class _WithLateModels(_ThenLoader):
    """Runs transformers without the names of its models."""

    def __init__(self, real):
        super().__init__(real, then=lambda module: None)

    def exec_module(self, module):
        super().exec_module(module)
        made = sys.modules[module.__name__]  # which transformers puts into its own place
        if not list_later(made, sys.modules["transformers.utils.import_utils"]):
            log.debug("the fast start does not suit this transformers; importing it as it comes")
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


class _WaitingLoader(importlib.abc.Loader):
    """The loader of a `_WaitingPackage`. names: what it holds while it waits, and its `__init__` then makes anew."""

    def __init__(self, real, names: Mapping[str, Any] | None = None):
        self.real, self.names, self.running = real, names or {}, False

    def create_module(self, spec):
        return _WaitingPackage(spec.name)

    def exec_module(self, module):
        """Not yet: see `run`."""
        vars(module).update(self.names)

    def run(self, module: _WaitingPackage) -> None:
        self.running = True  # a circular import among its modules must not run it again
        try:
            self.real.exec_module(module)
            module.__class__ = ModuleType  # type: ignore[assignment]  # it is a plain module from here on
        finally:
            self.running = False
