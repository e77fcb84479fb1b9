"""A language model as the text tower of a Mixture-of-Transformers, in Python.

- `from_language_model`: a language model -> a pipeline whose text logits are the model's, with one tower for each
  further modality, begun as a copy of the text's or afresh (LMFusion, arXiv 2412.15188).
- `to_language_model`: the text tower of a pipeline -> the language model it was made from, with these weights.
- `save`: the pipeline's folder, and beside it the recipe that trains it with its text tower frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mot_gen.errors import InputError
from mot_gen.families import llama
from mot_gen.families.shared.conversion import ConvertedPart, PublishedFolder, load, open_published
from mot_gen.families.shared.folders import local_folder
from mot_gen.families.shared.recipes import row_length, training_recipe
from mot_gen.families.shared.table import InMemory, restore_tensors
from mot_gen.families.shared.towers import Kind
from mot_gen.files.manifest import write as write_manifest
from mot_gen.pipelines.base import MultimodalPipeline


def from_language_model(
    folder: str | Path, tokenizers: Mapping[str, Any], start: str = "copy", local_files_only: bool = True
) -> MultimodalPipeline:
    """The language model in `folder` (or of that hub name) as the text tower of an MoT.

    tokenizers: one for each further modality, by name. start: whether its tower begins as a "copy" of the text's or
    "fresh". Embedding and head of the text are the model's; its begin and end of a text become the bounds of a
    document, and tokens that it does not know begin at the mean of those it knows.
    """
    with open_published(local_folder(folder, local_files_only), None) as source:
        made = llama.parts(source, tokenizers, start)
        return load(_Family(tokenizers), source, made)


class _Family:
    """This module, with the tokenizers of further modalities."""

    def __init__(self, tokenizers: Mapping[str, Any]):
        self.LICENCE, self.__name__, self._tokenizers = llama.LICENCE, llama.__name__, components(tokenizers)

    def pipeline(self, source: PublishedFolder, parts: Sequence[ConvertedPart]) -> MultimodalPipeline:
        return llama.pipeline(source, parts, **self._tokenizers)

    @staticmethod
    def recipe(pipeline: MultimodalPipeline, out: Path) -> str:
        return recipe(pipeline, out)


def with_tokenizers(tokenizers: Mapping[str, Any]) -> Any:
    """This family, whose pipelines have these tokenizers of further modalities."""
    return _Family(tokenizers)


def components(tokenizers: Mapping[str, Any]) -> dict[str, Any]:
    """{"image": tokenizer} -> {"image_tokenizer": tokenizer}; InputError for a modality that no pipeline has."""
    for name in tokenizers:
        if name not in ("image", "speech"):
            raise InputError(f"towers: {name!r} has no place in a pipeline; further towers are image and speech")
    return {f"{name}_tokenizer": tokenizer for name, tokenizer in tokenizers.items()}


@torch.no_grad()
def to_language_model(pipeline: MultimodalPipeline, like: str | Path, local_files_only: bool = True):
    """The text tower as a transformers model: `like`, the model it was made from, with the pipeline's weights."""
    from transformers import AutoModelForCausalLM

    folder = local_folder(like, local_files_only)
    config = llama.language_config(folder)
    kind = Kind.of(config)
    model = pipeline.model
    llama.check_same(model, config, kind, like)
    with open_published(folder, None) as source:
        target = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True).eval()
        ours = InMemory(model.state_dict())
        weights = dict(restore_tensors(llama.table(model, config, kind, "copy"), ours, source.weights, str(like)))
    missing, foreign = target.load_state_dict(weights, strict=False)
    assert not foreign
    assert set(missing) <= {"lm_head.weight"}  # of a tied head
    return target


# ---------------------------------------------------------------- folders


def save(pipeline: MultimodalPipeline, out: str | Path) -> None:
    """The pipeline's folder with `recipe.yaml`, which goes on training it with its text tower frozen."""
    out = Path(out)
    pipeline.save_pretrained(out)
    (out / "recipe.yaml").write_text(recipe(pipeline, out), encoding="utf-8")
    write_manifest(out)


def recipe(pipeline: MultimodalPipeline, out: Path) -> str:
    """A recipe that trains the other towers of the pipeline's folder `out`, and leaves the language model as it is."""
    heading = "Trains the other towers beside the language model's, which stays as it is. Set data.records."
    frozen = {"frozen": [pipeline.model.modality_names[0]]}
    return training_recipe(pipeline, out, heading, {"row_length": row_length(pipeline, 512)}, backbone=frozen)
