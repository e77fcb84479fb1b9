"""Images from where they lie: `open_images` reads a folder, a file of images, or images in memory.

A source is a list of names and a function from a number to one uint8 image (3, H, W). Files are read as training reads
them (mot_gen.files.image_files): turned upright, transparency on white, 16 bits and floats scaled; `as_stored=True`
leaves rotation and transparency alone. Files that cannot be read are counted and named, up to a cap beyond which the
run stops: a metric over what happened to be readable is no metric.

`load_all` decodes ahead by threads.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from mot_gen.errors import InputError, one_line, require
from mot_gen.eval.images.inputs import to_uint8
from mot_gen.eval.jsonl import read_jsonl
from mot_gen.files.image_files import load_image
from mot_gen.files.suffixes import PICTURES, find, suffix_of

IMAGE_KEYS = ("images", "image", "arr_0")  # names of the array in an .npz file
FILE_FIELDS = ("image", "file_name")  # of a .jsonl file; the second is Hugging Face's, as in records for training
IMAGE_COLUMNS = ("image", "images", "jpg", "png")  # names of the column in a .parquet file
UNREADABLE_ARRAYS = (OSError, ValueError, EOFError, zipfile.BadZipFile)  # what numpy.load raises
READER = 2  # raised when the same files are read into other pixels, so that features of the old ones are not reused

Read = Callable[[int], Tensor]


@dataclass
class ImageSource:
    """Images by number, and what is known of where they come from.

    path: where the images lie, for messages.
    names: of the images, in their order.
    read: number -> (3, H, W) uint8.
    fingerprint: of what is listed, for caches; None where nothing may be cached.
    cap: more unreadable images than this raise InputError.
    as_stored: whether EXIF rotation and transparency are left alone.
    unreadable: filled while reading, "name: reason".
    """

    path: str
    names: list[str]
    read: Read
    fingerprint: str | None
    cap: int = 10
    as_stored: bool = False
    unreadable: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    def provenance(self) -> dict[str, str]:
        """What changes the pixels and is not the default."""
        return {"pictures": "as-stored"} if self.as_stored else {}

    def read_or_note(self, i: int) -> Tensor | None:
        """The image, or None and a note where it cannot be decoded."""
        try:
            return self.read(i)
        except (OSError, ValueError) as err:
            self._note(i, err)
            return None

    def _note(self, i: int, error: Exception) -> None:
        """Keep what is wrong with an image."""
        name = self.names[i]
        before, _, reason = one_line(error).partition(f"{name}: ")
        is_named = before == "" or before.endswith("/")
        self.note(f"{name}: {reason if reason and is_named else one_line(error)}")

    def note(self, unreadable: str) -> None:
        """Count an image that cannot be read, once however often it is tried. InputError where there are too many, or
        no others."""
        if unreadable in self.unreadable:
            return
        self.unreadable.append(unreadable)
        if len(self.unreadable) == len(self):
            raise InputError(f"{self.path}: no image of {len(self)} can be read; the first: {self.unreadable[0]}")
        if len(self.unreadable) > self.cap:
            remedy = "mend them, or raise max_unreadable (--max-unreadable)"
            first = self.unreadable[0]
            raise InputError(f"{self.path}: over {self.cap} images cannot be read; the first: {first}; {remedy}")


def open_images(images: Any, cap: int = 10, *, as_stored: bool = False, name: str = "images") -> ImageSource:
    """A source of images; InputError where there is nothing to read.

    images: a folder; an .npz, .npy, .parquet or .jsonl file; an array or tensor (N, 3, H, W), (N, H, W, 3) or
    (N, H, W), uint8 or float in [0, 1]; a sequence of what `load_image` reads (PIL images, paths, bytes, tensors); or
    an ImageSource, returned as it is. name: what messages call images in memory.
    """
    if isinstance(images, ImageSource):
        return images
    if isinstance(images, (str, Path)):
        return _open_path(Path(images), cap, as_stored)
    if isinstance(images, Tensor):
        images = images.detach().cpu().numpy()
    if isinstance(images, np.ndarray):
        names, read = _array_reader(images, name)
    elif isinstance(images, Sequence):
        names, read = _sequence_reader(images, as_stored)
    else:
        raise InputError(f"{name}: cannot read images from {type(images).__name__}; give a path, an array or a list")
    require(names, f"{name}: holds no images; give at least one")
    return ImageSource(name, names, read, None, cap, as_stored)


def _open_path(path: Path, cap: int, as_stored: bool) -> ImageSource:
    require(path.exists(), f"{path}: no such file or folder; check the path")
    if path.is_dir():
        names, read = _folder(path, as_stored)
    elif path.suffix in (".npz", ".npy"):
        names, read = _array_reader(_loaded_array(path), str(path))
    elif path.suffix == ".parquet":
        names, read = _parquet(path, as_stored)
    elif path.suffix == ".jsonl":
        names, read = _jsonl(path, as_stored)
    elif suffix_of(path) in PICTURES:
        raise InputError(f"{path}: is one picture; give a folder of them")
    else:
        raise InputError(f"{path}: not a folder, .npz, .npy, .parquet or .jsonl; give one of these")
    if not names:
        raise InputError(f"{path}: holds no images ({', '.join(sorted(PICTURES))}); give a folder that does")
    return ImageSource(str(path), names, read, _fingerprint(path, names, as_stored), cap, as_stored)


def _folder(path: Path, as_stored: bool) -> tuple[list[str], Read]:
    files = find(path, PICTURES)
    return [str(file.relative_to(path)) for file in files], lambda i: decode(files[i], as_stored)


def _loaded_array(path: Path) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return loaded
        for key in IMAGE_KEYS:
            if key in loaded:
                return loaded[key]
    except UNREADABLE_ARRAYS as error:
        raise InputError(f"{path}: no array can be read ({one_line(error)}); write it by numpy.save") from error
    raise InputError(f"{path}: has no array named {' or '.join(IMAGE_KEYS)}, only {', '.join(loaded)}; rename it")


def _array_reader(array: np.ndarray, name: str) -> tuple[list[str], Read]:
    require(array.ndim in (3, 4), f"{name}: images must be (N, H, W, 3), (N, 3, H, W) or (N, H, W), got {array.shape}")
    is_one = array.ndim == 3 and (array.shape[0] == 3 or array.shape[2] in (3, 4))
    require(
        not is_one, f"{name}: {array.shape} may be one image or several grey ones; give (1, H, W, 3) or (N, H, W, 1)"
    )
    return [str(i) for i in range(len(array))], lambda i: from_array(array[i])


def _sequence_reader(images: Sequence[Any], as_stored: bool) -> tuple[list[str], Read]:
    def read(i: int) -> Tensor:
        image = images[i]
        return from_array(image) if isinstance(image, np.ndarray) else decode(image, as_stored)

    return [_name_of(image, i) for i, image in enumerate(images)], read


def _name_of(image: Any, number: int) -> str:
    """The path of an image where it is one, else its number."""
    return str(image) if isinstance(image, (str, Path)) else str(number)


def _parquet(path: Path, as_stored: bool) -> tuple[list[str], Read]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: is no parquet file that can be read ({one_line(error)})") from error
    name = next((name for name in IMAGE_COLUMNS if name in table.column_names), None)
    if name is None:
        raise InputError(f"{path}: has no column named image, only {', '.join(table.column_names)}; rename it")
    column = table.column(name)

    def read(i: int) -> Tensor:
        value = column[i].as_py()
        file = value["bytes"] if isinstance(value, dict) else value
        return decode(file, as_stored)

    return [str(i) for i in range(table.num_rows)], read


def _jsonl(path: Path, as_stored: bool) -> tuple[list[str], Read]:
    files: list[str] = []
    for number, record in read_jsonl(path):
        named = [record[key] for key in FILE_FIELDS if isinstance(record.get(key), str)]
        require(named, f"{path}:{number}: has no field 'image' with a file name; add it")
        files.append(named[0])
    return files, lambda i: decode(path.parent / files[i], as_stored)


def decode(file: str | Path | bytes | BinaryIO | Any, as_stored: bool = False) -> Tensor:
    """(3, H, W) uint8 of an image file, or of anything else that `load_image` reads."""
    if hasattr(file, "read"):
        file = file.read()
    return torch.from_numpy(np.array(load_image(file, as_stored=as_stored))).permute(2, 0, 1)


def from_array(array: np.ndarray) -> Tensor:
    """(3, H, W) uint8 of (H, W), (H, W, 1 or 3) or (1 or 3, H, W), uint8 or float in [0, 1]."""
    image = torch.from_numpy(np.array(array))  # a copy: torch wants arrays that may be written to
    if image.ndim == 2:
        image = image[None]
    elif image.shape[0] not in (1, 3):
        image = image.permute(2, 0, 1)
    return to_uint8(image[None])[0].expand(3, -1, -1)


def _fingerprint(path: Path, names: list[str], as_stored: bool) -> str:
    """Over names, sizes and times of change of every file that images come from, and how they are read."""
    facts = [_size_and_time(file) for file in _files_of(path, names)]
    identity = [str(path.resolve()), names, facts, READER, as_stored]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def _size_and_time(file: Path) -> tuple[int, int] | None:
    """Bytes, and nanoseconds of the last change; None where there is no such file."""
    if not file.exists():
        return None
    stated = file.stat()
    return stated.st_size, stated.st_mtime_ns


def _files_of(path: Path, names: list[str]) -> list[Path]:
    if path.is_dir():
        return [path / name for name in names]
    if path.suffix == ".jsonl":
        return [path.parent / name for name in names]
    return [path]


def load_all(source: ImageSource, numbers: range, workers: int) -> Iterator[tuple[int, Tensor | None]]:
    """(number, image or None) in order; decoded by threads, a bounded number ahead of what is consumed."""
    with ThreadPoolExecutor(workers) as pool:
        ahead = 4 * workers
        pending = [pool.submit(source.read_or_note, i) for i in numbers[:ahead]]
        for i in numbers:
            future = pending.pop(0)
            if i + ahead < numbers.stop:
                pending.append(pool.submit(source.read_or_note, i + ahead))
            yield i, future.result()
