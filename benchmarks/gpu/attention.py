"""FlexAttention beside SDPA with a dense mask: the same results, and the time of a forward and backward pass."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.models import WORDS, documents, image_tokenizer
from benchmarks.gpu.rows import Figures, difference
from benchmarks.gpu.setting import Setting
from mot_gen.backbone.attention import Places, attend, block_mask, dense_mask
from mot_gen.packing import pack
from mot_gen.sequence import Modality

WIDTH = 64  # of a head
AGREES = 2e-2  # of the largest value: bf16 keeps 8 bits


def attention(setting: Setting) -> Figures:
    """Over packed documents of text and pictures. AssertionError where the two differ by more than bf16 explains."""
    length, heads = setting.pick((4096, 16), (128, 2))
    places = packed_places(length, setting)
    masks = {"FlexAttention": block_mask(places), "SDPA": dense_mask(places, places)}
    given = [torch.randn(len(places.index), heads, length, WIDTH, device=setting.device) for _ in range(3)]
    exact = passes(given, masks["SDPA"], setting)
    rounded = [tensor.to(setting.dtype) for tensor in given]
    differences = {name: worst(passes(rounded, mask, setting), exact) for name, mask in masks.items()}
    assert max(differences.values()) < AGREES, f"results differ from those in fp32: {differences}"
    seconds = setting.alternate({name: partial(passes, rounded, mask, setting) for name, mask in masks.items()})
    return {
        "row length": length,
        **{f"{name}, difference from fp32": value for name, value in differences.items()},
        "time of SDPA over FlexAttention": seconds["SDPA"] / seconds["FlexAttention"],
        "milliseconds of FlexAttention": 1000 * seconds["FlexAttention"],
    }


def packed_places(length: int, setting: Setting) -> Places:
    """Two rows of documents."""
    modalities = [Modality("text", vocab_size=WORDS), image_tokenizer(setting).modality]
    batch = pack(documents(setting.pick(24, 2), WORDS, setting), modalities, length)
    reads_both_ways = torch.tensor([m.bidirectional for m in modalities], device=setting.device)
    return Places.of(batch.to(setting.device).layout, reads_both_ways)


def passes(given: list[Tensor], mask, setting: Setting) -> list[Tensor]:
    """What attention gives and, on a GPU, the gradients: FlexAttention has no backward pass on a CPU."""
    leaves = [tensor.detach().requires_grad_(setting.on_gpu) for tensor in given]
    out = attend(*leaves, mask)
    gradients = torch.autograd.grad(out.float().square().sum(), leaves) if setting.on_gpu else ()
    return [out.detach(), *gradients]


def worst(found: list[Tensor], wanted: list[Tensor]) -> float:
    return max(difference(one, other) for one, other in zip(found, wanted, strict=True))
