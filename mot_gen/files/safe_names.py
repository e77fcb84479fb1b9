"""Checks of file names that come from records, manifests and indices of weights: is_inside, is_url, refuse_url.

Such a name may not lead out of its folder, and a URL is not fetched.
"""

from __future__ import annotations

import os
from pathlib import Path

from mot_gen.errors import require


def is_inside(name: str, folder: str | Path) -> bool:
    """Whether a path, absolute or relative to a folder, leads to a place within it.

    Links are followed and not looked at: who put one into the folder owns it.
    """
    root = os.path.abspath(folder)
    return Path(os.path.normpath(os.path.join(root, name))).is_relative_to(root)


def is_url(name: str) -> bool:
    """Whether a name is an address, or holds the data itself."""
    return name.startswith(("http://", "https://", "ftp://", "data:"))


def refuse_url(name: str) -> None:
    """InputError for an address, which is not fetched."""
    require(not is_url(name), f"{name:.80}: is a URL, and nothing is fetched; download it and give the file")
