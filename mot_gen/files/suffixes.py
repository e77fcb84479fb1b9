"""Which files are pictures and which are sound, by their suffix.

PICTURES, UNREAD_PICTURES and SOUNDS are the only such tables: whoever looks for pictures or sound in a folder, a tar or
a table asks here. `find` lists the files of a folder; `suffix_of` and `is_hidden` are what else is asked of a name.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path, PurePath

_HEIF = frozenset({".heic", ".heif", ".hif"})  # read by Pillow where its plug-in pillow-heif is installed
_PILLOW = frozenset(
    {
        ".apng",
        ".avif",
        ".bmp",
        ".dib",
        ".gif",
        ".icns",
        ".ico",
        ".j2c",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpc",
        ".jpe",
        ".jpeg",
        ".jpf",
        ".jpg",
        ".jpx",
        ".mpo",
        ".pbm",
        ".pcx",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".qoi",
        ".tga",
        ".tif",
        ".tiff",
        ".webp",
    }
)
_OTHERS = frozenset({".arw", ".cr2", ".cr3", ".dng", ".eps", ".exr", ".hdr", ".jxl", ".nef", ".psd", ".svg"})

PICTURES = _PILLOW | _HEIF if find_spec("pillow_heif") else _PILLOW  # what load_image reads
UNREAD_PICTURES = _HEIF | _OTHERS if PICTURES == _PILLOW else _OTHERS  # pictures that load_image does not read
SOUNDS = frozenset(  # what load_audio reads
    {".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".snd", ".w64", ".wav"}
)


def suffix_of(name: str | PurePath) -> str:
    """The suffix of a file's name in lower case, with its dot; "" where it has none."""
    return PurePath(name).suffix.lower()


def is_hidden(name: str | PurePath) -> bool:
    """Whether a relative path is hidden: its name, or that of a folder on the way, begins with a dot.

    Other programs leave such files beside a user's own: ._a.jpg (macOS), .ipynb_checkpoints (Jupyter), .DS_Store.
    """
    return any(part.startswith(".") and part not in (".", "..") for part in PurePath(name).parts)


def find(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files with one of the suffixes in a folder and all below it, sorted; hidden ones are left out."""
    found = []
    for path in sorted(folder.rglob("*")):
        if suffix_of(path) in suffixes and not is_hidden(path.relative_to(folder)) and path.is_file():
            found.append(path)
    return found
