"""Weights that transformers would fill with random numbers because a folder lacks them: refuse_random.

transformers only prints that it does so. What such a network computes is noise, and nobody would see it in a result.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mot_gen.errors import require

IDLE = ("masked_spec_embed", "mask_token")  # act in training by masking alone; many published models lack them
POOLER = "pooler."  # many published models come without one


def refuse_random(network: Any, loading: Mapping[str, Any], folder: str | Path, remedy: str) -> None:
    """InputError where a network of transformers lacks weights of its own. Those in IDLE become zeros, and a pooler
    that was not saved becomes None, so that a fingerprint of the network is always the same.

    loading: what `from_pretrained(..., output_loading_info=True)` returns beside the network. remedy: what to do about
    such a folder, as "give a trained model".
    """
    missing = sorted(loading["missing_keys"])
    idle = [name for name in missing if name.endswith(IDLE)]
    for name in idle:
        network.get_parameter(name).data.zero_()
    lacking = [name for name in missing if name not in idle and not name.startswith(POOLER)]
    if any(name.startswith(POOLER) for name in missing):
        network.pooler = None
    what = f"{len(lacking)} weights of a {type(network).__name__}, such as {min(lacking, default='')}"
    require(not lacking, f"{folder}: lacks {what}, which would be random; {remedy}")
