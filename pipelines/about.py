"""What a checkpoint is and can do, read from its JSON files and the headers of its weights: describe.

Nothing is loaded, so that `mot-gen info` answers at once, however large the model is. Its backbone is built on torch's
meta device, without values, to ask it for its towers and its active parameters.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from mot_gen import backbone as backbones
from mot_gen import objectives
from mot_gen.backbone.outline import outlining
from mot_gen.checkpoints import find, fingerprint
from mot_gen.checkpoints.folders import ANSWERS, CONFIG, INDEX, read_config, read_json, refuse_foreign, tensor_shapes
from mot_gen.checkpoints.model_folder import refuse_layers
from mot_gen.errors import InputError, require
from mot_gen.pipelines.directions import directions_of
from mot_gen.sequence import Modality
from mot_gen.tokenizers.image_edges import sizes_in_words


def describe(checkpoint: str | Path) -> dict[str, Any]:
    """Facts about a checkpoint: modalities, directions, backbone, parameters, sampling defaults, hash.

    InputError, which names the file, for a folder that is damaged or does not describe a model."""
    folder = find(checkpoint)
    refuse_foreign(folder)
    index, config = read_json(folder / INDEX), read_config(folder / "model" / CONFIG)
    try:
        return {"folder": str(folder), **_family(folder), **_facts(folder, index, config)}
    except (ImportError, AttributeError, TypeError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder / 'model' / CONFIG}: does not describe a model: {error}") from error


def _facts(folder: Path, index: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    modalities = [Modality(**each) for each in config["modalities"]]
    learned = _objectives(config, modalities)
    has = {modality.name for modality in modalities if _component(index, f"{modality.name}_tokenizer")}
    return {
        "modalities": ", ".join(map(_modality, modalities)),
        "directions": ", ".join(direction.name for direction in directions_of(has, _draws(folder, index))),
        "objectives": ", ".join(f"{name}: {_kind(objective)}" for name, objective in learned.items()),
        **_evaluations(learned, modalities),
        **_backbone(folder / "model", config, modalities),
        "context": config.get("context"),
        **_image_sizes(folder, index),
        **_languages(folder / "model"),
        "sampling": _sampling(index, has),
        "model_sha256": fingerprint(folder),
    }


def _languages(folder: Path) -> dict[str, str]:
    """The languages that captions can be asked for in."""
    path = folder / ANSWERS
    if not path.is_file():
        return {}
    return {"languages": ", ".join(read_json(path))}


def _sampling(index: dict[str, Any], has: set[str]) -> dict[str, Any] | None:
    """The checkpoint's own settings of sampling, but for those of speech where it has none."""
    stated = index.get("sampling")
    if stated is None or "speech" in has:
        return stated
    return {name: value for name, value in stated.items() if not name.startswith("speech_")}


def _family(folder: Path) -> dict[str, str]:
    """The family of a converted model, and the licence that goes with its weights."""
    about = folder / "family.json"
    return read_json(about) if about.is_file() else {}


def _component(index: dict[str, Any], name: str) -> bool:
    """Whether a pipeline's folder has a component: its index names the class, or says [None, None]."""
    stated = index.get(name)
    return isinstance(stated, list) and stated[-1] is not None


def _modality(modality: Modality) -> str:
    what = "ids" if modality.discrete else "channels"
    return f"{modality.name} ({modality.vocab_size or modality.channels} {what})"


def _objectives(config: dict[str, Any], modalities: list[Modality]) -> dict[str, Any]:
    """modality -> objective, of those that are learned."""
    stated, found = config.get("objectives") or {}, {}
    for modality in modalities:
        if not modality.input_only:
            options = {"kind": modality.objective, **stated.get(modality.name, {})}
            found[modality.name] = objectives.load(options.pop("kind"), options)
    return found


def _kind(objective: Any) -> str:
    return type(objective).__module__.rsplit(".", 1)[-1]


def _evaluations(learned: dict[str, Any], modalities: list[Modality]) -> dict[str, str]:
    """How few evaluations spans were trained for, and how many they take, where an objective says so."""
    found = [f"{name}: {each.fewest} or more" for name, each in learned.items() if hasattr(each, "fewest")]
    found += [f"{each.name}: {len(each.scales)}, one a scale" for each in modalities if each.scales]
    return {"evaluations": ", ".join(found)} if found else {}


def _backbone(folder: Path, config: dict[str, Any], modalities: list[Modality]) -> dict[str, Any]:
    """The backbone and its towers; and the parameters of the whole model, all and those that one text token passes
    through."""
    shapes = tensor_shapes(folder)
    require(shapes, f"{folder}: has no safetensors; fetch the folder again")
    options = dict(config["backbone"])
    refuse_layers(folder / CONFIG, options, len(shapes))
    module, built = backbones.load(options.pop("kind", "mot"), options)
    with outlining():
        backbone = module.Backbone(built, modalities)
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    patches = sum(size for name, size in sizes.items() if name.startswith("patch_layers."))
    idle = sum(p.numel() for p in backbone.parameters()) - backbone.active_parameters()
    total = sum(sizes.values()) - sum(sizes.get(f"backbone.{name}", 0) for name, _ in backbone.named_buffers())
    return {
        "backbone": config["backbone"],
        "towers": ", ".join(backbone.towers),
        "active_parameters": total - idle - patches,
        "total_parameters": total,
    }


def _draws(folder: Path, index: dict[str, Any]) -> bool:
    """Whether pictures can be made of the checkpoint's tokens, and not read alone."""
    if not _component(index, "image_tokenizer"):
        return True
    stated = read_config(folder / "image_tokenizer" / CONFIG)
    if "vq_class" not in stated:
        return stated.get("_class_name") != "ImageFeatureTokenizer"
    from mot_gen.tokenizers.image_vq_networks import NETWORKS

    return NETWORKS[stated["vq_class"]].decodes


def _image_sizes(folder: Path, index: dict[str, Any]) -> dict[str, str]:
    if not _component(index, "image_tokenizer"):
        return {}
    stated = read_config(folder / "image_tokenizer" / CONFIG)["image_size"]
    return {"image_sizes": sizes_in_words(stated)}
