"""What `from_pretrained` is given: check_given, folder_or_name.
Names on the Hugging Face hub: require_local, which lets nothing be fetched without being asked for; was_fetched."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mot_gen.errors import require

SHIPPED = Path(__file__).parents[1] / "checkpoints"  # models that came with the package, a folder each
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def check_given(given: object) -> None:
    """InputError for what is neither a path nor a name."""
    is_name = isinstance(given, (str, os.PathLike)) and given != ""
    require(is_name, f"from_pretrained: give a folder, or the name of a model, got {given!r}")


def folder_or_name(given: str | Path) -> str | Path:
    """What was given; of a name below a shipped model, such as `openmoji/image_tokenizer`, its folder. InputError
    unless it is a path that is there, or may be a name on the hub."""
    check_given(given)
    name = str(given)
    is_path = "\0" not in name and Path(name).exists()
    if not is_path and "/" in name and HUB_NAME.fullmatch(name) and (SHIPPED / name).is_dir():
        return SHIPPED / name
    require(is_path or HUB_NAME.fullmatch(name), f"{name!r}: no such folder; give that of a saved one")
    return given


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
