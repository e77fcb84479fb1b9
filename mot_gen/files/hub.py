"""Names of models on the Hugging Face hub: require_local, which lets nothing be fetched without being asked for."""

from __future__ import annotations

import re
from pathlib import Path

from mot_gen.errors import require

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def require_local(field: str, name: str) -> None:
    """InputError unless this is a file or folder, or a hub name that was fetched before. field: said in front of it.

    A mistyped path often looks like a hub name, and to ask the hub for it takes half a minute without a network.
    """
    if Path(name).exists():
        return
    require(HUB_NAME.fullmatch(name), f"{field}: {name}: no such folder; give that of a saved one")
    require(
        was_fetched(name),
        f"{field}: {name}: no such folder, and nothing of this name was fetched from the hub; check the spelling, or "
        f"fetch it first: hf download {name}",
    )


def was_fetched(name: str) -> bool:
    """Whether huggingface_hub keeps files of this name in its cache."""
    from huggingface_hub import constants

    return (Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}").is_dir()
