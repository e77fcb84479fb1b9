"""What the tiny runs of digits in these tests share: SMALL, overrides of the recipe."""

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
