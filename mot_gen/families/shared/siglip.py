"""SigLIP encoders of pictures, in transformers' names: siglip_name, and of_convolution for their patch embedding."""

from __future__ import annotations

from mot_gen.families.shared.table import Permuted

# How names of `ImageFeatureTokenizer` begin -> how they begin in transformers. Others are the same.
_BEGINNINGS = (
    ("positions", "embeddings.position_embedding.weight"),
    ("embed.", "embeddings.patch_embedding."),
    ("norm.", "post_layernorm."),
)


def siglip_name(ours: str, prefix: str) -> str:
    """The published name of a tensor of an `ImageFeatureTokenizer`. prefix: of all names of the encoder."""
    for mine, theirs in _BEGINNINGS:
        if ours.startswith(mine):
            return prefix + theirs + ours.removeprefix(mine)
    return prefix + ours


def of_convolution(out: int, channels: int, patch: int) -> Permuted:
    """The weight (out, c, p, q) of a convolution over patches as that of a product over (p q c)."""
    whole = (out, channels, patch, patch)
    return Permuted(whole, (0, 2, 3, 1), (out, channels * patch**2), whole)
