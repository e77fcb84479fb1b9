"""Weights from files: missing_weights, file_sha256, load_state_dict, downloaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.files.atomic import writing


def missing_weights(what: str, address: str, sha256: str, flag: str) -> InputError:
    """The error that names where the weights are, what they hash to and how to give them."""
    return InputError(f"{what}: no weights given; download {address} (sha256 {sha256}) and pass {flag}")


def file_sha256(path: str | Path) -> str:
    """sha256 of a file, InputError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise InputError(f"{path}: weights cannot be read ({err.strerror}); check the path") from err


def load_state_dict(path: str | Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Tensors of a .safetensors or torch file, loaded without running code; its hash must begin with `sha256`."""
    found = file_sha256(path)
    if sha256 and not found.startswith(sha256):
        raise InputError(f"{path}: sha256 {found[:16]} is not the expected {sha256[:16]}; download the file again")
    if str(path).endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:
        raise InputError(f"{path}: not a file of weights ({type(err).__name__}); give a .pth or .safetensors") from err


def downloaded(address: str, sha256: str) -> Path:
    """A file of the torch hub cache, fetched once if need be and checked; InputError where it cannot be fetched."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / address.rsplit("/", 1)[1]
    if not path.exists():
        try:
            with writing(path) as part:
                torch.hub.download_url_to_file(address, str(part), progress=False)
        except OSError as err:
            raise InputError(
                f"cannot download {address} ({err}); fetch it (sha256 {sha256}) and pass its path"
            ) from err
    if file_sha256(path) != sha256:
        raise InputError(f"{path}: sha256 is not {sha256}; delete the file and fetch it again from {address}")
    return path
