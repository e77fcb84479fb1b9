"""What the tiny runs of digits in these tests share.

SMALL holds overrides that make the recipe small, and tiny reads the recipe of a run of six steps.
"""

from mot_gen.recipes.recipe import load_recipe

SMALL = [
    "tokenizers.text.vocab_size=270",
    "backbone.dim=16",
    "backbone.layers=1",
    "backbone.heads=2",
    "training.rows=2",
    "training.row_length=96",
    "training.sample_every=0",
    "training.device=cpu",
]
TINY = [
    *SMALL,
    "data.window=48",
    "training.steps=6",
    "training.warmup_steps=2",
    "training.log_every=1",
    "training.checkpoint_every=2",
]


def tiny(*overrides):
    return load_recipe("digits", [*TINY, *overrides])
