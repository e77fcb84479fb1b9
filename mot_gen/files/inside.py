"""Names that others wrote stay inside their folder: is_inside, for records, manifests and indices of weights."""

from __future__ import annotations

import os
from pathlib import Path


def is_inside(name: str, folder: str | Path) -> bool:
    """Whether a path, absolute or relative to a folder, leads to a place within it.

    Links are followed and not looked at: who put one into the folder owns it.
    """
    root = os.path.abspath(folder)
    return Path(os.path.normpath(os.path.join(root, name))).is_relative_to(root)
