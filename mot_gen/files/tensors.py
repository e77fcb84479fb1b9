"""Tensors in safetensors files, one at a time: Shards reads a folder's, write_tensors writes a file.

A model of many gigabytes is never in memory: a tensor is read when it is asked for, and written as soon as it is made.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mot_gen.errors import InputError, require
from mot_gen.files import json_files
from mot_gen.files.manifest import PICKLES
from mot_gen.files.safe_names import is_inside

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Spec:
    """What a file says of a tensor before it is read."""

    dtype: torch.dtype
    shape: tuple[int, ...]


class Shards:
    """The tensors of some safetensors files, by name; close it, or use it as a context.

    specs: name -> Spec of all of them. file_of: name -> the file that holds it.
    """

    def __init__(self, files: Sequence[Path]):
        """InputError for a file that is not there or cannot be read, and for a name that two files have."""
        self._stack = ExitStack()
        self._open: dict[str, Any] = {}
        self.specs: dict[str, Spec] = {}
        self.file_of: dict[str, Path] = {}
        try:
            for path in files:
                self._add(Path(path))
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(cls, folder: Path) -> Shards:
        """All weights of a folder, see `weight_files`; InputError where there are none."""
        return cls(weight_files(folder))

    def _add(self, path: Path) -> None:
        """Open a file, and note the dtype and shape of each of its tensors."""
        try:
            file = self._stack.enter_context(safe_open(path, "pt"))
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read, is it whole? {error}") from error
        for name in file.keys():  # noqa: SIM118  a safe_open is no dict
            other = self.file_of.get(name, path).name
            require(name not in self.specs, f"{path}: {name} is in {other} too; remove one of both files")
            part = file.get_slice(name)
            self.specs[name] = Spec(DTYPES[part.get_dtype()], tuple(part.get_shape()))
            self.file_of[name], self._open[name] = path, file

    def get(self, name: str) -> Tensor:
        """The tensor of that name, read now."""
        return self._open[name].get_tensor(name)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder's weights: those that its index names, else `model.safetensors`, else every safetensors
    file. So a second form of the weights beside them, as `consolidated.safetensors` is, stays unread.

    InputError for a shard that is missing, for pickled weights, and where there are none."""
    if indices := sorted(folder.glob("*.safetensors.index.json")):
        return _named_in(indices[-1])
    single = folder / "model.safetensors"
    files = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    if not files:
        refuse_without_weights(folder)
    return files


def _named_in(index: Path) -> list[Path]:
    """The files that an index names; InputError for one that is missing or lies outside of the folder."""
    try:
        named = sorted({*json_files.read(index)["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: is no index of weights; fetch it again") from error
    for name in named:
        path = index.parent / str(name)
        require(is_inside(str(name), index.parent), f"{index}: names {name!r}, which lies outside of the folder")
        require(path.is_file(), f"{path}: is missing, and {index.name} names it; fetch it again")
    return [index.parent / str(name) for name in named]


def refuse_without_weights(folder: Path) -> NoReturn:
    """InputError for a folder without safetensors."""
    for path in sorted(folder.glob("*")):
        require(
            path.suffix not in PICKLES,
            f"{path}: its weights are pickled, and a pickle may execute code; where you trust it, load it with "
            "transformers and save it again: save_pretrained(folder) writes safetensors",
        )
    raise InputError(f"{folder}: holds no safetensors file; fetch its weights")


def write_tensors(
    path: Path, specs: Mapping[str, Spec], tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str]
) -> None:
    """A safetensors file of these tensors, which come in the order of `specs`; one is in memory at a time.

    ValueError where a tensor is not what its spec says."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, spec in specs.items():
        begin, end = end, end + spec.dtype.itemsize * torch.Size(spec.shape).numel()
        header[name] = {"dtype": NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8 bytes
    expected = iter(specs.items())
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in tensors:
            wanted, spec = next(expected)
            if (name, tensor.dtype, tuple(tensor.shape)) != (wanted, spec.dtype, spec.shape):
                raise ValueError(f"{path}: {name} {tuple(tensor.shape)} comes where {wanted} {spec.shape} was stated")
            file.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        if (left := next(expected, None)) is not None:
            raise ValueError(f"{path}: {left[0]} never came")
