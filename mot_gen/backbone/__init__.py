"""Backbones by name. A backbone is a module with a `Config` and a `Backbone`; the contract they share:

- `Config(**options)` validates; `Backbone(config, modalities)` builds, `backbone.dim` is its width;
- `forward(x, layout, cache=None)`: x (B, S, dim) and a `Layout`, or what `plan` made of it -> (B, S, dim), normalised;
- `plan(layout, cache=None)`: all that is derived from a layout, made once per batch;
- `init_cache(batch, length)`: a cache whose last pass is kept by `advance(counts)` and is tentative until then;
- `towers` (names) and `untied_parameters()` (names of parameters whose first dimension is the tower);
- documents never see each other, a span never sees a later one, and any modality may be absent.

`load(kind)` finds a backbone by a preset's name, by module name in this folder, or by dotted path.
"""

import importlib
import importlib.util

from mot_gen.errors import InputError, nearest

# Presets of transformer.py: names for statements about what is untied.
PRESETS = {
    "dense": ("mot_gen.backbone.transformer", {"untied": ()}),
    "mot": ("mot_gen.backbone.transformer", {}),
}


def load(kind: str, options: dict | None = None):
    """The module of a backbone, and its `Config` made of the preset's and the given options."""
    module_name, preset = PRESETS.get(kind, (kind if "." in kind else f"mot_gen.backbone.{kind}", {}))
    if importlib.util.find_spec(module_name) is None:
        raise InputError(f"backbone.kind: {kind!r} is not a backbone" + nearest(kind, PRESETS))
    module = importlib.import_module(module_name)
    return module, module.Config(**{**preset, **(options or {})})
