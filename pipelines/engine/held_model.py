"""A model that takes less memory than its weights: held_model, from a folder, its weights on the disk or in 8 bits."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mot_gen import checkpoints
from mot_gen.backbone.storage.byte_storage import ByteMatrix
from mot_gen.backbone.storage.half_storage import HalfStorage
from mot_gen.backbone.storage.layers_on_disk import LayersOnDisk
from mot_gen.checkpoints.folders import refuse_foreign
from mot_gen.errors import InputError, nearest, require
from mot_gen.files.manifest import refuse_pickle
from mot_gen.files.tensor_file import TensorFiles
from mot_gen.model import MultimodalModel, answers_in, outlining

WEIGHTS = ("memory", "disk", "int8")
_LAYERS = "backbone.blocks."


def check_weights(weights: str) -> None:
    """InputError for a way to hold weights that is not known."""
    if weights not in WEIGHTS:
        raise InputError(f"weights: {weights!r} is not known{nearest(weights, WEIGHTS)}; it is {', '.join(WEIGHTS)}")


def held_model(checkpoint: str | Path, weights: str, dtype: torch.dtype | None = None) -> MultimodalModel:
    """The model of a checkpoint, for generation alone.

    weights: "disk", layer by layer as they are needed, two layers at once in memory; "int8", the matrices in 8 bits, a
    scale a row. dtype: of what is computed, fp32 by default. InputError for a folder that cannot be loaded.
    """
    dtype = dtype or torch.float32
    folder = checkpoints.find(checkpoint) / "model"
    refuse_pickle(folder)
    refuse_foreign(folder)
    MultimodalModel._check_folder(folder)
    fits = weights != "int8" or dtype == torch.float32
    require(fits, "weights='int8': what is computed is fp32; leave dtype out")
    files = TensorFiles(sorted(folder.glob("*.safetensors")))
    with outlining():
        model = MultimodalModel.from_config(MultimodalModel.load_config(folder))
    model.eval().requires_grad_(False)
    model.answers = answers_in(folder)
    if weights == "disk":
        held = _leave_layers(model, files, dtype)
    else:
        held = _hold_in_bytes(model, files)
    for name, parameter in model.named_parameters():
        if parameter.is_meta and name not in held:
            _put(model, name, files.read(name).to(dtype))
    return model


def _leave_layers(model: MultimodalModel, files: TensorFiles, dtype: torch.dtype) -> set[str]:
    """Let the backbone read its layers while it runs. Returns the names of their parameters."""
    blocks = list(model.backbone.blocks)

    def read(number: int) -> dict[str, Tensor]:
        names = [name for name, _ in blocks[number].named_parameters()]
        return {name: files.read(f"{_LAYERS}{number}.{name}").to(dtype) for name in names}

    model.backbone.on_disk = LayersOnDisk(blocks, read)
    return {name for name, _ in model.named_parameters() if name.startswith(_LAYERS)}


def _hold_in_bytes(model: MultimodalModel, files: TensorFiles) -> set[str]:
    """Read every matrix of the projections and of the head, one after the other, into 8 bits. Returns their names."""
    held = set()
    for path, layer in model.named_modules():
        if isinstance(layer, HalfStorage):
            name = f"{path}.weight"
            weight = files.read(name)
            layer.halves = [ByteMatrix(matrix) for matrix in weight.view(-1, *weight.shape[-2:])]
            held.add(name)
    return held


def _put(model: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, nn.Parameter(value, requires_grad=False))
