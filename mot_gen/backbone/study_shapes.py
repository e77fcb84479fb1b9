"""Shapes of backbones that a study compares, as their `Config` says: width_steps, feeds, ffn_step, shape_like, SPARSE.

A study gives each kind of backbone the shape of one recipe's, and then the width at which it meets the recipe's budget.
A `Config` says how; of one that does not, as a backbone of your own may not, the usual is taken.
"""

from __future__ import annotations

import math
from typing import Any

from mot_gen.errors import InputError

EVEN = 4  # floats: grouped products want rows of whole 16 bytes

# Options that say what is sparse: they belong to one backbone, and none that is compared with it takes them over.
SPARSE = frozenset({"towers", "untied", "experts", "router", "top_k", "balance_weight", "z_weight"})


def width_steps(config: Any) -> tuple[int, ...]:
    """Steps in which `dim` may change; a smaller one is for where no multiple of the one before it fits."""
    if hasattr(config, "roles"):
        return config.roles.width_steps()
    if hasattr(config, "heads"):
        return (2 * config.heads,)
    return (4, 1)


def feeds(config: Any) -> bool:
    """Whether there is a feed-forward, whose `ffn_dim` may change too."""
    if hasattr(config, "roles"):
        return any(getattr(part, "ffn_dim", None) is not None for part in config.roles.parts["feed_forward"])
    return getattr(config, "ffn_dim", None) is not None


def ffn_step(config: Any) -> int:
    """What `ffn_dim` must be a multiple of."""
    if not hasattr(config, "roles"):
        return EVEN
    steps = [part.step for part in config.roles.parts["feed_forward"]]
    return math.lcm(EVEN, *steps)


def sublayers(config: Any) -> int:
    """How many mixers and feed-forwards its layers have together; two a layer where it does not say."""
    return getattr(config, "sublayers", 2 * config.layers)


def shape_like(wanted: type, other: Any) -> dict[str, Any]:
    """The options that give a kind of backbone, by its `Config` class, the shape of another's `Config`."""
    if hasattr(wanted, "shape_like"):
        return wanted.shape_like(other)
    return heads_and_layers(other)


def heads_and_layers(other: Any) -> dict[str, Any]:
    """dim, layers and heads, for a backbone of which each layer has a mixer and a feed-forward."""
    if getattr(other, "heads", None) is None:
        raise InputError("backbone.kind: has no attention heads to copy; start the study from a transformer's recipe")
    return {"dim": other.dim, "layers": sublayers(other) // 2, "heads": other.heads}
