"""Backbones at tiny size: build, of a preset, a file of the folder or one of STATED; kinds, all presets and files; and
inputs, documents_of and set_to, for what is asked of them."""

import importlib
import inspect
import pkgutil
from contextlib import nullcontext

import torch
from tiny import MODALITIES, generator

from mot_gen import backbone as backbones
from mot_gen.backbone import named_parts
from mot_gen.backbone.transformer import Config
from mot_gen.packing import document_length, pack

TINY = {"dim": 32, "layers": 2, "heads": 4, "multiple_of": 32, "bidirectional": "two_pass"}


def kinds() -> list[str]:
    files = {f"mot_gen.backbone.{module.name}" for module in pkgutil.iter_modules(backbones.__path__)}
    files -= {module for module, _ in backbones.PRESETS.values()}
    return [*backbones.PRESETS, *sorted(f for f in files if hasattr(importlib.import_module(f), "Backbone"))]


# Options with which a part shows itself at this size; a part that is not named here is tried with its defaults.
EXAMPLES = {
    "window": {"size": 4},
    "routed": {"shared": 1, "top_k": 2},
    "token_skip": {"share": 0.5},
    "experts": {"experts": 3, "router": "token_choice"},
    "mamba": {"bidirectional": "two_pass"},
    "kda": {"bidirectional": "two_pass"},
    "combiner": {"segment": 3},
    "nested": {"divisors": [1, 2, 4]},
    "hidden_groups": {"groups": 8, "shared": 2, "chosen": 3},
    "continued_fraction": {"least": 1.0},
    "blocks": {"group": 2, "run": 1},
    "domains": {"domains": ["books", "letters"]},
}
# Those that all layers have, or none.
EVERYWHERE = {"blocks"}
# What stands in the other layer, where the part alone would not let all tokens of a picture meet, or not stand alone.
BESIDE = {"mixer": "attention", "depth": "every", "reach": "full"}


def by_file() -> dict:
    """Every part of every role that is not the default, as a statement: a file is tried on arrival."""
    found = {}
    for role in named_parts.ROLES:
        for kind in named_parts.kinds(role):
            named = {"kind": kind} | EXAMPLES.get(kind, {})
            if role == "router":
                found[f"{role} {kind}"] = ("mot", {"experts": 2, role: named})
            elif kind != getattr(Config, role):
                pattern = [named, BESIDE[role]] if role in BESIDE and kind not in EVERYWHERE else named
                found[f"{role} {kind}"] = ("mot", {role: pattern})
    return found


# Statements that are kept to the same promises as the presets.
STATED = {
    "widths": ("mot", {"widths": {"image": 16}, "kv_heads": 2}),
    "window and routed heads": (
        "mot",
        {
            "reach": [{"kind": "window", "size": 4}, "full"],
            "head_choice": {"kind": "routed", "top_k": 2},
            "feed_forward": "plain",
            "activation": "poly_norm",
        },
    ),
    **by_file(),
}


def build(kind, device=None, **options):
    """A tiny backbone whose parameters all differ from what they start from."""
    kind, stated = STATED.get(kind, (kind, {}))
    options = stated | options
    module_name, _ = backbones.PRESETS.get(kind, (kind, {}))
    known = inspect.signature(importlib.import_module(module_name).Config).parameters
    module, config = backbones.load(kind, {k: v for k, v in (TINY | options).items() if k in known})
    torch.manual_seed(0)
    with torch.device(device) if device else nullcontext():
        built = module.Backbone(config, MODALITIES).eval()
    if device is None:
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return built


def inputs(*shape, seed=0):
    return torch.randn(*shape, 32, generator=generator(seed))


def documents_of(sample):
    """A sample alone in a row of its own length."""
    return pack([sample], MODALITIES, document_length(sample, MODALITIES)).layout


def set_to(backbone, value, *names):
    """The backbone, with this value in every parameter whose name has one of these in it."""
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if any(each in name for each in names):
                parameter.fill_(value)
    return backbone
