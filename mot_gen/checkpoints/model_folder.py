"""Whether a folder's config describes the weights beside it, before any memory is taken: check_model_folder,
refuse_layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mot_gen.checkpoints.folders import CONFIG, read_config, refuse_foreign, refuse_misfit, tensor_shapes
from mot_gen.errors import InputError


def check_model_folder(folder: Path, outline: Callable[[dict[str, Any]], nn.Module]) -> None:
    """InputError unless the folder's config describes the weights beside it, and names no code but this package's.

    outline: the options in a config -> the model that they describe, on the meta device.
    """
    refuse_foreign(folder)
    path = folder / CONFIG
    config = read_config(path)
    refuse_layers(path, config.get("backbone") or {}, tensors=len(tensor_shapes(folder)))
    options = {name: value for name, value in config.items() if not name.startswith("_")}
    try:
        model = outline(options)
    except (ImportError, AttributeError, TypeError, KeyError, ValueError) as error:
        raise InputError(f"{path}: does not describe a model: {error}") from error
    refuse_misfit(folder, {name: tuple(p.shape) for name, p in model.named_parameters()})


def refuse_layers(path: Path, backbone: Mapping[str, Any], tensors: int) -> None:
    """InputError for more layers than tensors: so many would take long to outline. path: of the config."""
    layers = backbone.get("layers", 0)
    if isinstance(layers, int) and layers > tensors > 0:
        raise InputError(f"{path}: backbone.layers: {layers} layers are more than the {tensors} tensors there")
