"""What an image tokenizer learns from: vq_pass, scales_pass, kl_pass (reconstruction and their penalties), and
pass_and_network, which knows them; PatchDiscriminator with hinge_loss and adaptive_weight; lpips; and CodebookAverage,
by which a `learned_codebook` learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn
from torch.nn import functional as F

from mot_gen.errors import InputError
from mot_gen.tokenizers.image_latent import LatentImageTokenizer
from mot_gen.tokenizers.image_scales import ScalesImageTokenizer
from mot_gen.tokenizers.image_training import ImageTraining
from mot_gen.tokenizers.image_vq import VQImageTokenizer
from mot_gen.tokenizers.quantizers import NearestEntry, straight_through


class NetworkPass(NamedTuple):
    """What one pass of a network gives: the images (B, C, H, W), its own penalty, and for a learned codebook the
    vectors (N, d) and the ids (N,) they chose."""

    images: Tensor
    penalty: Tensor
    vectors: Tensor | None = None
    ids: Tensor | None = None


def vq_pass(tokenizer: VQImageTokenizer, pixels: Tensor, options: ImageTraining) -> NetworkPass:
    """Quantised with the gradient straight through; the penalty is the commitment loss."""
    quantize, z = tokenizer.vq.quantize, tokenizer.latents(pixels).float()
    ids = quantize.ids(z)
    entries = quantize.entries(ids).detach()
    if not isinstance(quantize, NearestEntry):
        images = tokenizer.reconstruct(straight_through(quantize.bounded(z), entries))
        return NetworkPass(images, z.new_zeros(()))
    images = tokenizer.reconstruct(straight_through(z, entries))
    return NetworkPass(images, options.commitment * F.mse_loss(z, entries), z.detach().flatten(0, -2), ids.flatten())


def scales_pass(tokenizer: ScalesImageTokenizer, pixels: Tensor, options: ImageTraining) -> NetworkPass:
    """Quantised scale by scale, with the gradient straight through. The penalty holds the latents to what every scale
    has built (commitment), and that to the latents, from which the smoothing learns."""
    f = tokenizer.latents(pixels).float()
    found = tokenizer.quantize(f)
    images = tokenizer.reconstruct(straight_through(f, found.built[-1]))
    target = f.expand_as(found.built)
    penalty = options.commitment * F.mse_loss(target, found.built.detach()) + F.mse_loss(found.built, target.detach())
    return NetworkPass(images, penalty, found.vectors.flatten(0, 1), found.ids.flatten())


def kl_pass(tokenizer: LatentImageTokenizer, pixels: Tensor, options: ImageTraining) -> NetworkPass:
    """A sample of the posterior decoded; the penalty is KL(q(z | x) || N(0, 1)), summed over z, mean over images."""
    encoded = tokenizer.vae.encode(F.pixel_unshuffle(pixels, tokenizer.config.fold))
    posterior = DiagonalGaussianDistribution(encoded.latent_dist.parameters.float())
    images = tokenizer.vae.decode(posterior.sample()).sample
    return NetworkPass(F.pixel_shuffle(images, tokenizer.config.fold), options.kl * posterior.kl().mean())


def pass_and_network(tokenizer: Any) -> tuple[Callable[..., NetworkPass], Any]:
    """How a tokenizer is run in training, and the network in it that has a decoder."""
    if isinstance(tokenizer, VQImageTokenizer):
        return vq_pass, tokenizer.vq
    if isinstance(tokenizer, ScalesImageTokenizer):
        return scales_pass, tokenizer.network
    return kl_pass, tokenizer.vae


def learned_codebook(tokenizer: Any) -> NearestEntry | None:
    """The codebook that follows the vectors which choose its entries, None where there is none."""
    if isinstance(tokenizer, ScalesImageTokenizer):
        return tokenizer.quantize.codebook
    if isinstance(tokenizer, VQImageTokenizer) and isinstance(tokenizer.vq.quantize, NearestEntry):
        return tokenizer.vq.quantize
    return None


class CodebookAverage:
    """The codebook as the moving average of the vectors that chose each entry (van den Oord et al., 2017, appendix A).

    An entry that is chosen less than `dead` times a step on average is moved onto a vector of the batch, drawn in
    proportion to its squared distance from its own entry, as k-means++ seeds: so flat backgrounds do not take all.
    """

    def __init__(self, codebook: NearestEntry, decay: float, dead: float = 0.05):
        self.codebook, self.decay, self.dead = codebook, decay, dead
        weight = codebook.embedding.weight.requires_grad_(False)
        self.counts, self.sums = torch.zeros_like(weight[:, 0]), torch.zeros_like(weight)

    @torch.no_grad()
    def update(self, vectors: Tensor, ids: Tensor) -> None:
        """vectors (N, d) chose ids (N,)."""
        vectors = vectors.to(self.sums.dtype)
        distance = (vectors - self.codebook.embedding.weight[ids]).square().sum(-1)
        chosen = torch.zeros_like(self.counts).index_add_(0, ids, torch.ones_like(distance))
        self.counts.mul_(self.decay).add_(chosen, alpha=1 - self.decay)
        self.sums.mul_(self.decay).index_add_(0, ids, vectors, alpha=1 - self.decay)
        dead = (self.counts < self.dead).nonzero().flatten()
        if len(dead):
            seeds = torch.multinomial(distance + 1e-8, len(dead), replacement=len(dead) > len(vectors))
            self.counts[dead], self.sums[dead] = 1.0, vectors[seeds]
        self.codebook.embedding.weight.copy_(self.sums / self.counts[:, None])

    def state_dict(self) -> dict:
        """The running counts (entries,) and sums (entries, d)."""
        return {"counts": self.counts, "sums": self.sums}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` gave."""
        self.counts.copy_(state["counts"])
        self.sums.copy_(state["sums"])


class PatchDiscriminator(nn.Sequential):
    """(B, C, H, W) -> (B, 1, H / 4, W / 4) logits, one for each patch (Isola et al., 2017); spectrally normalised."""

    def __init__(self, channels: int, width: int = 64):
        norm, act = nn.utils.parametrizations.spectral_norm, nn.LeakyReLU(0.2)
        super().__init__(
            norm(nn.Conv2d(channels, width, 4, 2, 1)), act,
            norm(nn.Conv2d(width, 2 * width, 4, 2, 1)), act,
            norm(nn.Conv2d(2 * width, 2 * width, 3, 1, 1)), act,
            norm(nn.Conv2d(2 * width, 1, 3, 1, 1)),
        )  # fmt: skip


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's: mean max(0, 1 - real) + mean max(0, 1 + fake), halved."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """|gradient of the reconstruction| / |gradient of the adversarial loss| at the last layer (VQGAN, Esser 2021)."""
    one, two = (torch.autograd.grad(loss, last_layer, retain_graph=True)[0] for loss in (reconstruction, adversarial))
    return (one.norm() / (two.norm() + 1e-4)).clamp(0, 1e4).detach()


def lpips(net: Literal["alex", "vgg", "squeeze"] = "alex") -> nn.Module:
    """LPIPS (Zhang et al., 2018) of images in [-1, 1]; raises InputError where its weights cannot be had."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        return LearnedPerceptualImagePatchSimilarity(net).requires_grad_(False)
    except Exception as error:  # the download of torchvision's weights fails in many ways
        raise InputError(f"perceptual: LPIPS needs torchvision's weights of {net}, cached or online") from error
