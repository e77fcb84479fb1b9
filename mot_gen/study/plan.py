"""plan: what a recipe will cost, before anything runs. The model is built on the meta device, so 7B fits a laptop."""

from __future__ import annotations

from itertools import islice

import torch

from mot_gen.flops import count_parameters, forward_flops
from mot_gen.packing import pack_rows
from mot_gen.training.build import build_model, build_tokenizers, load_splits
from mot_gen.training.data import Loader
from mot_gen.training.recipe import Recipe

SAMPLED = 4  # batches that are packed to learn how full the rows get


def plan(recipe: Recipe) -> dict:
    """Parameters (active, total), tokens and FLOPs of a step and of the run, and the memory of training in bytes.

    The data is read, since tokens and fill depend on it; the model's weights are never allocated.
    """
    splits = load_splits(recipe)
    tokenizers = build_tokenizers(recipe, splits)
    with torch.device("meta"):
        model = build_model(recipe, tokenizers)
    training = recipe.training
    loader = Loader(splits.train, tokenizers, recipe.data, training)
    batches = [pack_rows(rows, model.modalities, training.row_length) for rows in islice(loader, SAMPLED)]
    flops = 3 * training.accumulate * sum(forward_flops(model, batch) for batch in batches) // len(batches)
    fill = sum(batch.fill for batch in batches) / len(batches)
    slots = training.rows * training.row_length * training.accumulate
    parameters = count_parameters(model)
    return {
        "active_parameters": parameters.active,
        "total_parameters": parameters.total,
        "samples": len(splits.train),
        "tokens_a_step": round(slots * fill),
        "row_fill": fill,
        "flops_a_step": flops,
        "steps": training.steps,
        "tokens": round(slots * fill) * training.steps,
        "flops": flops * training.steps,
        "state_bytes": _state_bytes(parameters.total, ema=training.ema > 0),
        "activation_bytes": _activation_bytes(recipe, model),
    }


def _state_bytes(total: int, ema: bool) -> int:
    """Weights, gradients and AdamW's two moments in fp32, and the averaged weights."""
    return total * 4 * (4 + ema)


def _activation_bytes(recipe: Recipe, model) -> int:
    """What the backward pass keeps of the backbone."""
    bytes_each = 2 if recipe.training.precision == "bf16" else 4
    return recipe.training.rows * recipe.training.row_length * model.backbone.activations() * bytes_each
