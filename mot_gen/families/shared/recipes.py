"""The recipe that stands beside a converted model, by which `mot-gen train` goes on training it.

`training_recipe` writes any, `whole_model_recipe` that of a whole model; `row_length` and `without_chat` are fields.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mot_gen.backbone import stated_options
from mot_gen.pipelines.base import MultimodalPipeline


def training_recipe(
    pipeline: MultimodalPipeline, out: Path, heading: str, training: dict[str, Any], **more: Any
) -> str:
    """The recipe of the model in the folder `out`. heading: its first line, a comment. training: fields of that
    section.

    more: further sections, or fields of `backbone` that differ from the model's."""
    model, place = pipeline.model, out.resolve()
    tokenizers, objectives = {}, {}
    for modality in model.modalities:
        tokenizer = getattr(pipeline, f"{modality.name}_tokenizer")
        kind = type(tokenizer).__module__.rsplit(".", 1)[-1]
        tokenizers[modality.name] = {"kind": kind, "path": str(place / f"{modality.name}_tokenizer")}
        objectives[modality.name] = {"kind": modality.objective, **model.config.objectives.get(modality.name, {})}
    backbone = stated_options(model.config.backbone) | more.pop("backbone", {})
    own: dict[str, Any] = {"patch_layers": {}, "token_layers": None, "embedding_scale": 1.0}
    backbone |= {name: model.config[name] for name, usual in own.items() if model.config[name] not in (usual, None, {})}
    stated = {
        "name": out.name,
        "data": {"records": ["pairs.jsonl"]},
        "tokenizers": tokenizers,
        "backbone": backbone,
        "objectives": objectives,
        "training": {"init": str(place), **training},
        **more,
    }
    return f"# {heading}\n" + yaml.safe_dump(stated, sort_keys=False, width=120)


def whole_model_recipe(
    pipeline: MultimodalPipeline,
    out: Path,
    name: str,
    training: dict[str, Any],
    cheaper: str = "or low-rank adapters: backbone.lora",
) -> str:
    """A recipe that goes on training the whole model in the folder `out`, without the conversation around prompts.

    name: of the family. training: fields of that section. cheaper: how to train less of it, for the first line."""
    heading = f"Goes on training a converted {name}. Set data.records; {cheaper}."
    sampling = without_chat(pipeline.config.sampling)
    return training_recipe(pipeline, out, heading, {"row_length": row_length(pipeline)} | training, sampling=sampling)


def without_chat(sampling: dict[str, Any]) -> dict[str, Any]:
    """The defaults of sampling, without the conversation around prompts: records are learned as they stand."""
    return {"published": {**sampling, "chat": False}}


def row_length(pipeline: MultimodalPipeline, most: int = 4096) -> int:
    """Slots of a row in training: the model's context, at most so many."""
    return min(most, pipeline.model.config.context or most)
