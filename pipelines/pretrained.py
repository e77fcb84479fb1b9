"""What `from_pretrained` and `save_pretrained` of a pipeline look after, so that its parts fit: load, take_device,
refuse_variant, tokenizers_of, refuse_misfits, bind.

A model is bound to its tokenizers: `bind` writes their fingerprints into the model's config when a pipeline is saved,
and `load` compares them. Checkpoints without fingerprints are held to the sizes alone. Whatever is wrong with a folder
is an InputError that names it.
"""

from __future__ import annotations

import copy
import importlib
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from safetensors import SafetensorError
from torch import nn

from mot_gen import checkpoints
from mot_gen.checkpoints.folders import INDEX, OWN, permission, read_json, refuse_foreign, tokenizer_part
from mot_gen.errors import InputError, require
from mot_gen.files import manifest
from mot_gen.files.hub import check_given
from mot_gen.files.own_modules import imported
from mot_gen.model import MultimodalModel

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")

# What goes wrong in a folder that is damaged, incomplete, or of another version.
_FAULTS = (OSError, ValueError, KeyError, AttributeError, ImportError, RuntimeError, SafetensorError)


def load(name: str | Path, build: Callable[[str | Path], Any], given: Mapping[str, Any]) -> Any:
    """The pipeline that `build` makes of a folder.

    name: a run's folder, its `model/`, a converted folder, a shipped name, or a hub name. given: the caller's keyword
    arguments, components that take the place of the folder's among them.
    """
    check_given(name)
    folder = _folder_of(name)
    if torch.float16 in (given.get("dtype"), given.get("torch_dtype")) and not torch.accelerator.is_available():
        warnings.warn(
            "a CPU computes slowly in float16; load in float32 and call pipe.model.enable_half_storage(), which "
            "reads weights in fp16 and computes in fp32",
            stacklevel=3,
        )
    with permission(bool(given.get("trust_remote_code"))):
        if folder is not None:
            _check(folder, given)
        try:
            pipe = build(folder or name)
        except InputError:
            raise
        except _FAULTS as error:
            raise InputError(_reason(name, folder, error)) from error
    _refuse_damaged_values(pipe, name)
    if not _are_cast(given):
        _refuse_strangers(pipe, name, given)
    return pipe


def _folder_of(name: str | Path) -> Path | None:
    """The folder with `model_index.json`, or None for what can only be a hub name."""
    given = str(name)
    is_known = Path(given).exists() or given in checkpoints.names()
    if not is_known and _HUB_NAME.fullmatch(given):
        return None
    return checkpoints.find(name)


def _check(folder: Path, given: Mapping[str, Any]) -> None:
    """What can be said before anything is loaded. given: components that need not be in the folder."""
    damage = manifest.damage(folder) if (folder / manifest.NAME).exists() else None
    require(not damage, f"{damage}; export it again, or fetch it again")
    refuse_foreign(folder)
    index = folder / INDEX
    named = read_json(index)
    components = {name: entry for name, entry in named.items() if isinstance(entry, list) and entry[0]}
    kind = named.get("_class_name") or "pipeline without a class"
    has_model = "model" in components or "model" in given
    require(has_model, f"{index}: is a {kind!s:.80}, which has no component `model`; give a model of mot_gen")
    _import_components(index, components)
    _show_loader(components)
    for name in sorted(components.keys() - given.keys()):
        there = (folder / name).is_dir()
        require(there, f"{folder / name}: is missing, and {INDEX} names it; fetch or export the folder again")


def _import_components(index: Path, components: Mapping[str, Any]) -> None:
    """Import the modules of this package that an index names: diffusers looks for classes in imported modules alone."""
    for name, (module, cls) in components.items():
        if not str(module).startswith("mot_gen."):
            continue
        try:
            getattr(importlib.import_module(module), cls)
        except (ImportError, AttributeError, TypeError):
            raise InputError(f"{index}: {name}: there is no {module}.{cls} in this version") from None


def _show_loader(components: Mapping[str, Any]) -> None:
    """Let diffusers find how a user's own tokenizer is loaded: it looks for `ModelMixin` among the names of the module
    that has the class, and a module that only builds on one of ours need not import it."""
    for module, _ in components.values():
        if "." in str(module) and not module.startswith(OWN):
            vars(imported(INDEX, module)).setdefault("ModelMixin", ModelMixin)


def _reason(name: str | Path, folder: Path | None, error: Exception) -> str:
    why = " ".join(str(error).split())[:300]
    if folder is None:
        return f"{name}: no such folder, and no hub name that can be fetched from here; check the spelling ({why})"
    return f"{folder}: cannot be loaded, is it complete? {why}"


def _are_cast(given: Mapping[str, Any]) -> bool:
    """Whether weights were cast while they were loaded, so that their fingerprints are others."""
    dtype = given.get("dtype", given.get("torch_dtype"))
    return dtype not in (None, torch.float32)


# ---------------------------------------------------------------- arguments of from_pretrained


def take_device(given: dict) -> torch.device | None:
    """Take `device_map` out of the arguments of `from_pretrained`. Returns the device that the pipeline is to be moved
    to, if one was named. InputError for what would split a model over devices."""
    device_map = given.pop("device_map", None)
    if device_map is None:
        return None
    if isinstance(device_map, dict) or device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        raise InputError(
            f"device_map={device_map!r}: the model is one part and is not split over devices; give one device, as "
            "device_map='cuda', or call enable_model_cpu_offload()"
        )
    try:
        return torch.device(device_map)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device_map={device_map!r} is no device; give one, as 'cuda' or 'cpu'") from error


def refuse_variant(folder: str | Path, variant: str | None) -> None:
    """InputError for a variant of the weights, as diffusers names them, that a folder does not hold."""
    if variant is not None and Path(folder).is_dir() and not any(Path(folder).rglob(f"*.{variant}.*")):
        raise InputError(f"variant={variant!r}: {folder} has no files of it; leave variant out, and say dtype instead")


# ---------------------------------------------------------------- parts that fit


def tokenizers_of(pipe: Any) -> dict[str, Any]:
    """Modality -> tokenizer, of the model's modalities whose tokenizer the pipeline has."""
    found: dict[str, Any] = {}
    names = pipe.model.modality_names
    for name in names:
        tokenizer = getattr(pipe, tokenizer_part(name, names), None)
        if tokenizer is not None:
            found[name] = tokenizer
    return found


def refuse_misfits(pipe: Any) -> None:
    """InputError where a tokenizer's vocabulary or channels are not as many as the model's."""
    remedy = "give the tokenizer that the model was trained with"
    for name, tokenizer in tokenizers_of(pipe).items():
        own, theirs = pipe.model.modality[name], tokenizer.modality
        require(
            theirs.vocab_size == own.vocab_size,
            f"{name}_tokenizer: has a vocabulary of {theirs.vocab_size} and the model one of {own.vocab_size}; "
            f"{remedy}",
        )
        require(
            theirs.channels == own.channels,
            f"{name}_tokenizer: makes {theirs.channels} channels and the model takes {own.channels}; {remedy}",
        )


def _refuse_strangers(pipe: Any, name: str | Path, given: Mapping[str, Any]) -> None:
    """InputError where a tokenizer of the folder is not the one that the model was trained with."""
    bound = pipe.model.config.tokenizers or {}
    for modality, tokenizer in tokenizers_of(pipe).items():
        wanted = None if f"{modality}_tokenizer" in given else bound.get(modality)
        require(
            wanted in (None, tokenizer.fingerprint),
            f"{name}: its {modality}_tokenizer is not the one that its model was trained with "
            f"({tokenizer.fingerprint[:12]}, not {str(wanted)[:12]}); export it again, or fetch it again",
        )


def bind(pipe: Any) -> None:
    """Write the tokenizers' fingerprints into the model's config, as they will be when loaded in fp32."""
    found = {}
    for name, tokenizer in tokenizers_of(pipe).items():
        if isinstance(tokenizer, nn.Module) and tokenizer.dtype != torch.float32:
            tokenizer = copy.deepcopy(tokenizer).float()
        found[name] = tokenizer.fingerprint
    model: MultimodalModel = pipe.model
    model.register_to_config(tokenizers=found)


# ---------------------------------------------------------------- values


@torch.no_grad()
def _refuse_damaged_values(pipe: Any, name: str | Path) -> None:
    """InputError where a weight is NaN or infinite: such a model writes nonsense."""
    for part, network in pipe.components.items():
        damaged = _damaged(network) if isinstance(network, nn.Module) else None
        require(
            damaged is None,
            f"{name}: {part}: the weights {damaged} are not finite numbers (NaN or infinite); training went wrong "
            "there, give an earlier checkpoint",
        )


def _damaged(network: nn.Module) -> str | None:
    """The first parameter that is not finite, by its name."""
    return next((name for name, tensor in network.named_parameters() if not _finite(tensor)), None)


def _finite(tensor: torch.Tensor) -> bool:
    if tensor.is_meta or not tensor.is_floating_point():
        return True
    # The sum is one pass without a copy. It may overflow where no value does, so a bad one is looked at closely.
    return bool(torch.isfinite(tensor.sum(dtype=torch.float32)) or torch.isfinite(tensor).all())
