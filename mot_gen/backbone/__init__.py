"""Backbones by name. A backbone is a module with a `Config` and a `Backbone`; the contract they share:

- `Config(**options)` validates; `Backbone(config, modalities)` builds, `backbone.dim` is its width;
- `forward(x, layout, cache=None)`: x (B, S, dim) and a `Layout`, or what `plan` made of it -> (B, S, dim), normalised;
- `plan(layout, cache=None, modality=None)`: all that is derived from a layout, made once per batch; `modality` is the
  number of that of all tokens, where it is known;
- `next_token(cache, time)`: a quicker pass for one token in every row, or None;
- `init_cache(batch, length)`: a cache whose last pass is kept by `advance(counts)` and is tentative until then; with
  `narrow(rows)`, its first rows for tentative passes, and `snapshot()` and `restore(snapshot, rows)`, which forgets
  what was kept since;
- `towers` (names), `tower_of` (the number of each modality's), `untied_parameters()` (name -> the tower of each slice
  along its first dimension) and `active_parameters()` (how many a text token passes through);
- `init_weights()` writes the initial value of every parameter that is not on the meta device;
- `row_slots(length, device)`: how many slots a training row of so many tokens has;
- `flops(layout)` of a forward pass, with `executed_flops(layout)` where more is computed here than is needed, and
  `auxiliary_loss()`, what the last pass adds to the training loss, weighted;
- `activations(layout)`: how many numbers the backward pass keeps of a batch;
- `blocks`, the layers, of a class `Block`: shards are gathered one by one, `compile_repeated_blocks` compiles them and
  then sets `compiled`, and `gradient_checkpointing`, where it is an attribute, says to make them again;
- projections of `routing.UntiedLinear`, where half storage is to hold them; others stay in fp32;
- `causal`: False where, without a cache, later tokens bear on earlier ones (expert choice), so that likelihoods leak;
- documents never see each other, a span never sees a later one, and any modality may be absent.

`base.BaseBackbone` has all of these that a backbone of one set of parameters need not say itself.

`load(kind)` finds a backbone by a preset's name, by module name in this folder, or by dotted path; `build` makes one.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mot_gen.errors import InputError, require
from mot_gen.files.own_modules import exists, imported, not_found

if TYPE_CHECKING:
    from mot_gen.sequence import Modality  # needs torch

# Names for statements about what is untied, and which feed-forwards are experts.
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("mot_gen.backbone.transformer", {"untied": ()}),
    "mot": ("mot_gen.backbone.transformer", {}),
    "moe4x": ("mot_gen.backbone.transformer", {"untied": (), "experts": 4}),
    "hybrid": ("mot_gen.backbone.transformer", {"experts": {"text": 4}}),
    "symbiotic": (
        "mot_gen.backbone.transformer",
        {"untied": ("ffn",), "experts": 4, "router": "token_choice", "top_k": 2, "shared_experts": 1},
    ),
    "mamba": ("mot_gen.backbone.mamba", {"untied": ()}),
    "mom": ("mot_gen.backbone.mamba", {}),
}


def load(kind: str, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """The module of a backbone, and its `Config` made of the preset's and the given options."""
    module, (_, preset) = module_of(kind), PRESETS.get(kind, ("", {}))
    return module, module.Config(**{**preset, **stated_options(options or {})})


def build(section: Mapping[str, Any], modalities: "Sequence[Modality]") -> Any:
    """The `Backbone` that a section of a config describes: its kind, "mot" by default, beside its options."""
    options = dict(section)
    kind = options.pop("kind", "mot")
    module, config = load(kind, options)
    made = module.Backbone(config, modalities)
    require(hasattr(made, "blocks"), f"backbone.kind: Backbone of {kind} must list its layers in blocks")
    return made


def saved_options(backbone: dict[str, Any]) -> dict[str, Any]:
    """A backbone's kind and options as they are saved in `config.json`, which `load` reads.

    Towers become a list of [name, modalities]: they are numbered in their order, and JSON is written with sorted keys.
    """
    towers = backbone.get("towers")
    if not isinstance(towers, dict):
        return backbone
    return {**backbone, "towers": [[name, list(members)] for name, members in towers.items()]}


def stated_options(saved: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe states of a backbone whose options were saved: the inverse of `saved_options`."""
    options = dict(saved)
    if isinstance(options.get("towers"), list | tuple):
        options["towers"] = dict(options["towers"])
    return options


def module_of(kind: str) -> Any:
    """The module that a kind names. InputError where there is none."""
    own = kind if "." in kind else f"mot_gen.backbone.{kind}"
    name, _ = PRESETS.get(kind, (own, {}))
    if not exists("backbone.kind", name):
        raise InputError(f"backbone.kind: {kind!r} is not a backbone" + not_found(kind, PRESETS))
    module = imported("backbone.kind", name)
    if "." in kind:
        from mot_gen.backbone.base import check_module  # needs torch

        check_module(module)
    return module
