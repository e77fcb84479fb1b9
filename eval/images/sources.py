"""Images from where they lie: open_images reads a folder, .npz, .npy, .parquet or .jsonl; load_all decodes ahead.

Every source is a list of names and a function from a number to one uint8 image (3, H, W). Files that cannot be read are
counted and named, up to a cap beyond which the run stops: a metric over what happened to be readable is no metric.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.files.suffixes import PICTURES, find

IMAGE_KEYS = ("images", "image", "arr_0")


@dataclass
class ImageSource:
    """names: of the images in their order. read: number -> (3, H, W) uint8. fingerprint: of what is listed, for caches.

    unreadable: filled while reading, "name: reason". cap: more of them than this is an InputError.
    """

    path: str
    names: list[str]
    read: Callable[[int], Tensor]
    fingerprint: str
    cap: int = 10
    unreadable: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    def read_or_note(self, i: int) -> Tensor | None:
        """The image, or None and a note where it cannot be decoded."""
        try:
            return self.read(i)
        except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as err:
            self.unreadable.append(f"{self.names[i]}: {type(err).__name__}")
            if len(self.unreadable) > self.cap:
                first = ", ".join(self.unreadable[:3])
                raise InputError(
                    f"{self.path}: over {self.cap} images cannot be read ({first}, ...); mend them or raise the cap"
                ) from err
            return None


def open_images(path: str | Path, cap: int = 10) -> ImageSource:
    """A source from a path; InputError where there is nothing to read."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the path")
    openers = {".npz": _arrays, ".npy": _arrays, ".parquet": _parquet, ".jsonl": _jsonl}
    if path.is_dir():
        names, read = _folder(path)
    elif path.suffix in openers:
        names, read = openers[path.suffix](path)
    else:
        raise InputError(f"{path}: not a folder, .npz, .npy, .parquet or .jsonl; give one of these")
    if not names:
        raise InputError(f"{path}: holds no images ({', '.join(sorted(PICTURES))}); give a folder that does")
    return ImageSource(str(path), names, read, _fingerprint(path, names), cap)


def _folder(path: Path):
    files = find(path, PICTURES)
    return [str(file.relative_to(path)) for file in files], lambda i: decode(files[i])


def _arrays(path: Path):
    """(N, H, W, 3), (N, H, W), or (N, 3, H, W), uint8 or float in [0, 1]."""
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.lib.npyio.NpzFile):
        key = next((key for key in IMAGE_KEYS if key in loaded), None)
        if key is None:
            raise InputError(
                f"{path}: has no array named {' or '.join(IMAGE_KEYS)}, only {', '.join(loaded)}; rename it"
            )
        loaded = loaded[key]
    if loaded.ndim not in (3, 4):
        raise InputError(f"{path}: images must be (N, H, W, 3), (N, 3, H, W) or (N, H, W), got {loaded.shape}")
    return [str(i) for i in range(len(loaded))], lambda i: from_array(loaded[i])


def _parquet(path: Path):
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    name = next((name for name in ("image", "images", "jpg", "png") if name in table.column_names), None)
    if name is None:
        raise InputError(f"{path}: has no column named image, only {', '.join(table.column_names)}; rename it")
    column = table.column(name)

    def read(i: int) -> Tensor:
        value = column[i].as_py()
        return decode(io.BytesIO(value["bytes"] if isinstance(value, dict) else value))

    return [str(i) for i in range(table.num_rows)], read


def _jsonl(path: Path):
    files = []
    for number, record in read_jsonl(path):
        if not isinstance(record.get("image"), str):
            raise InputError(f"{path}:{number}: has no field 'image' with a file name; add it")
        files.append(record["image"])
    return files, lambda i: decode(path.parent / files[i])


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict]]:
    """(line number, object) of every line that is not blank."""
    if Path(path).is_dir():
        raise InputError(f"{path}: is a folder, and a .jsonl file is wanted here")
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({err}); check the file") from err
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as err:
            raise InputError(f"{path}:{number}: not JSON ({err.msg}); write one object a line") from err
        if not isinstance(record, dict):
            raise InputError(
                f"{path}:{number}: a {type(record).__name__} where an object belongs; write one object a line"
            )
        yield number, record


def decode(file) -> Tensor:
    """(3, H, W) uint8 of an image file; transparency is laid on white, as a viewer shows it."""
    with Image.open(file) as image:
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def from_array(array: np.ndarray) -> Tensor:
    """(3, H, W) uint8 of (H, W), (H, W, 1 or 3) or (1 or 3, H, W), uint8 or float in [0, 1]."""
    from mot_gen.eval.images.inputs import to_uint8

    array = torch.from_numpy(np.ascontiguousarray(array))
    array = array[None] if array.ndim == 2 else array if array.shape[0] in (1, 3) else array.permute(2, 0, 1)
    return to_uint8(array[None])[0].expand(3, -1, -1)


def provenance_file(path: Path) -> Path:
    """`provenance.json`, in a folder of samples or beside a file of them."""
    return (path if path.is_dir() or not path.suffix else path.parent) / "provenance.json"


def provenance_of(path: str | Path) -> dict:
    """What samples say of themselves (the model's hash, the sampler, ...), {} where they say nothing: whoever makes a
    set of samples may put facts into `provenance.json`, and they stand in every result."""
    file = provenance_file(Path(path))
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as err:
        raise InputError(f"{file}: is not JSON ({err}); mend or remove it") from err
    if not isinstance(found, dict):
        raise InputError(f"{file}: holds a {type(found).__name__}; write an object, or remove it")
    return found


def _fingerprint(path: Path, names: list[str]) -> str:
    """Over names, sizes and times of change of every file that images come from."""
    folder = path if path.is_dir() else path.parent if path.suffix == ".jsonl" else None
    files = [path] if folder is None else [folder / name for name in names]
    facts = [(file.stat().st_size, file.stat().st_mtime_ns) if file.exists() else None for file in files]
    return hashlib.sha256(json.dumps([str(path.resolve()), names, facts]).encode()).hexdigest()


def load_all(source: ImageSource, numbers: range, workers: int) -> Iterator[tuple[int, Tensor | None]]:
    """(number, image or None) in order; decoded by threads, a bounded number ahead of what is consumed."""
    with ThreadPoolExecutor(workers) as pool:
        ahead = 4 * workers
        pending = [(i, pool.submit(source.read_or_note, i)) for i in numbers[:ahead]]
        for i in numbers:
            _, future = pending.pop(0)
            if i + ahead < numbers.stop:
                pending.append((i + ahead, pool.submit(source.read_or_note, i + ahead)))
            yield i, future.result()
