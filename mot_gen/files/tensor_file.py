"""TensorFile: a safetensors file whose tensors are read one by one into memory of their own.

`safetensors` maps a file, so that all that was ever read of it counts as the process's until the system wants it back.
Here nothing is mapped: what is forgotten is free.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.files.tensors import DTYPES, Spec


class TensorFile:
    """One safetensors file, whose tensors are read one by one.

    specs: name -> Spec of all tensors. Threads may read at the same time.
    """

    def __init__(self, path: Path):
        """InputError for a file that is cut off or no safetensors."""
        self._file = os.open(path, os.O_RDONLY)
        try:
            (length,) = struct.unpack("<Q", os.pread(self._file, 8, 0))
            header = json.loads(os.pread(self._file, length, 8))
        except (struct.error, ValueError) as error:
            os.close(self._file)
            raise InputError(f"{path}: cannot be read, is it whole? {error}") from error
        header.pop("__metadata__", None)
        self.path = path
        self.specs = {name: Spec(DTYPES[each["dtype"]], tuple(each["shape"])) for name, each in header.items()}
        self._places = {name: 8 + length + each["data_offsets"][0] for name, each in header.items()}

    def read(self, name: str) -> Tensor:
        """The tensor of that name."""
        spec = self.specs[name]
        tensor = torch.empty(spec.shape, dtype=spec.dtype)
        into = tensor.view(-1).view(torch.uint8).numpy().data  # its memory, into which the file is read
        place, end = self._places[name], len(into)
        done = 0
        while done < end:  # one call reads 2 GB at most
            got = os.preadv(self._file, [into[done:]], place + done)
            if not got:
                raise InputError(f"{self.path}: ends before {name} does; fetch it again")
            done += got
        return tensor

    def close(self) -> None:
        os.close(self._file)


class TensorFiles:
    """Several such files as one, by name."""

    def __init__(self, paths: Sequence[Path]):
        self._of = {name: file for file in map(TensorFile, paths) for name in file.specs}

    @property
    def names(self) -> list[str]:
        return list(self._of)

    def read(self, name: str) -> Tensor:
        return self._of[name].read(name)
