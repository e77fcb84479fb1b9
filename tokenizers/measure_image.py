"""How well an image tokenizer keeps its pictures: reconstruct, psnr, codebook_use, reconstruction_report."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mot_gen.tokenizers.image_base import ImageTokenizer

_IDENTICAL = 1e-10  # mean squared errors below this are float rounding: identical images count as 100 dB


def reconstruct(tokenizer: ImageTokenizer, images: Tensor, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """(N, C, H, W) in [0, 1] -> the same decoded from their tokens, and the tokens (N, n) or (N, n, D)."""
    decoded, tokens = [], []
    for batch in images.split(batch_size):
        spans = tokenizer.encode_batch(list(batch))
        decoded += tokenizer.decode_batch(spans)
        tokens += [span.values for span in spans]
    return torch.stack(decoded).cpu(), torch.stack(tokens).cpu()


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """(N, C, H, W) in [0, 1] twice -> (N,) decibels: -10 log10 of each image's mean squared error."""
    return -10 * (images - targets).square().flatten(1).mean(1).clamp_min(_IDENTICAL).log10()


def codebook_use(ids: Tensor, size: int) -> dict[str, float]:
    """ids of any shape -> the share of the `size` entries that occur, and exp(entropy) of how often they do."""
    frequency = torch.bincount(ids.flatten(), minlength=size).double() / ids.numel()
    entropy = -torch.special.xlogy(frequency, frequency).sum()
    return {"codebook_use": (frequency > 0).double().mean().item(), "codebook_perplexity": entropy.exp().item()}


def reconstruction_report(tokenizer: ImageTokenizer, images: Tensor, batch_size: int = 64) -> tuple[dict, Tensor]:
    """Numbers about (N, C, H, W) in [0, 1], and the reconstructions.

    psnr: mean over images of each one's.
    psnr_pooled: of the error pooled over all, which is never higher.
    ssim: Wang et al., 2004, Gaussian window of 11.
    images: N.

    For a discrete tokenizer also what `codebook_use` gives.
    """
    decoded, tokens = reconstruct(tokenizer, images, batch_size)
    each = psnr(decoded, images)
    from torchmetrics.functional.image import structural_similarity_index_measure  # takes seconds

    ssim = structural_similarity_index_measure(decoded, images, data_range=1.0)
    assert isinstance(ssim, Tensor)  # alone, where no contrast or full map is asked for
    report = {
        "images": len(images),
        "tokens_per_image": math.prod(tokenizer.grids[tokenizer.size]),
        "psnr": each.mean().item(),
        "psnr_pooled": (-10 * (10 ** (-each.double() / 10)).mean().log10()).item(),
        "ssim": ssim.item(),
    }
    if tokenizer.modality.discrete:
        report |= {"codebook_size": tokenizer.modality.vocab_size} | codebook_use(tokens, tokenizer.modality.vocab_size)
    return report, decoded
