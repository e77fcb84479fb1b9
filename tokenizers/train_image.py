"""Training image tokenizers: VQImageTokenizer, ScalesImageTokenizer and the KL autoencoder of LatentImageTokenizer.

- ImageTraining, VQTraining: the settings. - small_vq, small_scales, small_kl: networks for small images that a CPU can
train.
- ImageTrainer: the loop; one step is reconstruction (mean squared error), plus the commitment of the vectors to their
  entries (VQ) or the divergence from a unit Gaussian (KL), plus a perceptual and an adversarial loss where asked for.
- CodebookAverage: the codebook follows the vectors that chose it; entries that nobody chooses are revived.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from mot_gen.errors import InputError, Interrupted
from mot_gen.files.whole import writing
from mot_gen.tokenizers.image_latent import LatentImageTokenizer
from mot_gen.tokenizers.image_scales import ScalesImageTokenizer
from mot_gen.tokenizers.image_vq import VQImageTokenizer
from mot_gen.tokenizers.muon import MuonAdamW
from mot_gen.tokenizers.pretrained import NetworkTokenizer
from mot_gen.tokenizers.quantizers import NearestEntry, straight_through
from mot_gen.tokenizers.residual_autoencoder import ResidualAutoencoder

MEASURED = 4096  # images, at most, that tell the scale of the latents
MAX_SKIPPED = 20  # steps in a row without a finite gradient


@dataclass(frozen=True)
class ImageTraining:
    """steps of batch_size images; the learning rate rises over warmup_steps and falls to zero as a cosine.

    augment: "none"; "flip" mirrors half of the images; "strong" also turns them and permutes their channels.
    commitment, kl, perceptual, adversarial: weights beside a reconstruction of weight 1; the last joins after
    adversarial_start steps. average_decay: of the running average of the weights, which is what is kept.
    """

    steps: int = 5000
    batch_size: int = 32
    lr: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.0
    clip: float = 1.0
    commitment: float = 0.25
    kl: float = 1e-6
    perceptual: float = 0.0
    adversarial: float = 0.0
    adversarial_start: int = 2000
    codebook_decay: float = 0.99
    average_decay: float = 0.998
    augment: str = "flip"
    precision: str = "bf16"
    seed: int = 0
    checkpoint_every: int = 500
    log_every: int = 50

    def __post_init__(self):
        for field in ("steps", "batch_size", "lr", "checkpoint_every", "log_every"):
            if not getattr(self, field) > 0:
                raise InputError(f"{field} must be positive, got {getattr(self, field)}")
        for field, allowed in (("precision", ("bf16", "fp32")), ("augment", ("none", "flip", "strong"))):
            if getattr(self, field) not in allowed:
                raise InputError(f"{field} must be one of {', '.join(allowed)}, got {getattr(self, field)!r}")

    def lr_at(self, step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class VQTraining(ImageTraining):
    """The settings of a VQImageTokenizer: its error is soon the codebook's, so it needs fewer steps."""

    steps: int = 3000


def small_vq(
    image_size: int | Sequence[int] = 32,
    entries: int = 1024,
    levels: Sequence[int] | None = None,
    fold: int = 4,
    widths: Sequence[int] = (128,),
    encoder_layers: int = 2,
    decoder_layers: int = 4,
    color_channels: int = 3,
) -> VQImageTokenizer:
    """An untrained VQImageTokenizer that shrinks by 4: 8 x 8 ids of a 32 x 32 image."""
    channels, d = color_channels * fold**2, len(levels) if levels else 8
    network = ResidualAutoencoder(channels, d, list(widths), encoder_layers, decoder_layers, posterior=False)
    return VQImageTokenizer.from_network(network, image_size, entries, levels, fold)


def small_scales(
    image_size: int | Sequence[int] = 32,
    scales: Sequence[int | Sequence[int]] = (1, 2, 3, 4, 6, 8),
    entries: int = 1024,
    fold: int = 4,
    widths: Sequence[int] = (128,),
    encoder_layers: int = 2,
    decoder_layers: int = 4,
    color_channels: int = 3,
) -> ScalesImageTokenizer:
    """An untrained ScalesImageTokenizer that shrinks by 4: 130 ids in six scales of a 32 x 32 image."""
    network = ResidualAutoencoder(color_channels * fold**2, 8, list(widths), encoder_layers, decoder_layers, False)
    config = {key: value for key, value in network.config.items() if not key.startswith("_")}
    tokenizer = ScalesImageTokenizer(config, image_size, scales, entries, fold)
    tokenizer.network.load_state_dict(network.state_dict())
    return tokenizer.eval()


def small_kl(
    image_size: int | Sequence[int] = 32,
    latent_channels: int = 8,
    fold: int = 4,
    widths: Sequence[int] = (128,),
    encoder_layers: int = 2,
    decoder_layers: int = 4,
    color_channels: int = 3,
    patch_size: int = 1,
) -> LatentImageTokenizer:
    """An untrained LatentImageTokenizer that shrinks by 4: 8 x 8 x 8 latents of a 32 x 32 image."""
    channels = color_channels * fold**2
    network = ResidualAutoencoder(channels, latent_channels, list(widths), encoder_layers, decoder_layers)
    return LatentImageTokenizer.from_autoencoder(network, image_size, patch_size, fold)


class Pass(NamedTuple):
    """What one pass of a network gives: the images (B, C, H, W), its own penalty, and for a learned codebook the
    vectors (N, d) and the ids (N,) they chose."""

    images: Tensor
    penalty: Tensor
    vectors: Tensor | None = None
    ids: Tensor | None = None


def vq_pass(tokenizer: VQImageTokenizer, pixels: Tensor, options: ImageTraining) -> Pass:
    """Quantised with the gradient straight through; the penalty is the commitment loss."""
    quantize, z = tokenizer.vq.quantize, tokenizer.latents(pixels).float()
    ids = quantize.ids(z)
    entries = quantize.entries(ids).detach()
    if not isinstance(quantize, NearestEntry):
        images = tokenizer.reconstruct(straight_through(quantize.bounded(z), entries))
        return Pass(images, z.new_zeros(()))
    images = tokenizer.reconstruct(straight_through(z, entries))
    return Pass(images, options.commitment * F.mse_loss(z, entries), z.detach().flatten(0, -2), ids.flatten())


def scales_pass(tokenizer: ScalesImageTokenizer, pixels: Tensor, options: ImageTraining) -> Pass:
    """Quantised scale by scale, with the gradient straight through. The penalty holds the latents to what every scale
    has built (commitment), and that to the latents, from which the smoothing learns."""
    f = tokenizer.latents(pixels).float()
    found = tokenizer.quantize(f)
    images = tokenizer.reconstruct(straight_through(f, found.built[-1]))
    target = f.expand_as(found.built)
    penalty = options.commitment * F.mse_loss(target, found.built.detach()) + F.mse_loss(found.built, target.detach())
    return Pass(images, penalty, found.vectors.flatten(0, 1), found.ids.flatten())


def kl_pass(tokenizer: LatentImageTokenizer, pixels: Tensor, options: ImageTraining) -> Pass:
    """A sample of the posterior decoded; the penalty is KL(q(z | x) || N(0, 1)), summed over z, mean over images."""
    encoded = tokenizer.vae.encode(F.pixel_unshuffle(pixels, tokenizer.config.fold))
    posterior = DiagonalGaussianDistribution(encoded.latent_dist.parameters.float())
    images = tokenizer.vae.decode(posterior.sample()).sample
    return Pass(F.pixel_shuffle(images, tokenizer.config.fold), options.kl * posterior.kl().mean())


def _pass_and_network(tokenizer: Any) -> tuple[Callable[..., Pass], Any]:
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
        self.counts.mul_(self.decay).add_(torch.bincount(ids, minlength=len(self.counts)), alpha=1 - self.decay)
        self.sums.mul_(self.decay).index_add_(0, ids, vectors, alpha=1 - self.decay)
        dead = (self.counts < self.dead).nonzero().flatten()
        if len(dead):
            seeds = torch.multinomial(distance + 1e-8, len(dead), replacement=len(dead) > len(vectors))
            self.counts[dead], self.sums[dead] = 1.0, vectors[seeds]
        self.codebook.embedding.weight.copy_(self.sums / self.counts[:, None])

    def state_dict(self) -> dict:
        return {"counts": self.counts, "sums": self.sums}

    def load_state_dict(self, state: dict) -> None:
        self.counts, self.sums = state["counts"], state["sums"]


def running_average(decay: float) -> Callable:
    """For AveragedModel: a share `decay` of the average stays at each update, less in the first, so that no run is too
    short for it: of n updates, as many as a tenth count at any time until `decay` is reached."""

    def update(averages: list[Tensor], weights: list[Tensor], updates: Tensor) -> None:
        n = float(updates)
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + n) / (10 + n)))

    return update


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


def augmented(pixels: Tensor, augment: str, generator: torch.Generator) -> Tensor:
    """(B, C, H, W), each image mirrored at random ("flip"), also transposed (if square), turned upside down and its
    channels permuted ("strong"): the 8 symmetries of the square times the C! orders of the channels."""

    def half(changed: Tensor) -> Tensor:
        chosen = torch.rand(len(pixels), generator=generator) < 0.5
        return torch.where(chosen[:, None, None, None], changed, pixels)

    if augment == "none":
        return pixels
    pixels = half(pixels.flip(-1))
    if augment == "strong":
        pixels = half(pixels.flip(-2))
        pixels = half(pixels.mT) if pixels.shape[-1] == pixels.shape[-2] else pixels
        orders = torch.rand(pixels.shape[:2], generator=generator).argsort(1)
        pixels = pixels.gather(1, orders[:, :, None, None].expand_as(pixels))
    return pixels


class ImageTrainer:
    """Trains a tokenizer on images (N, C, H, W) uint8, keeping a checkpoint in `folder` from which it resumes.

    perceptual: (images, targets) in [-1, 1] -> loss, used with the weight of that name. After `run` the tokenizer
    holds the running average of the weights, and a LatentImageTokenizer its measured shift and scale.
    """

    def __init__(
        self,
        tokenizer: NetworkTokenizer,
        images: Tensor,
        options: ImageTraining,
        folder: Path | None = None,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    ):
        self.tokenizer: Any = tokenizer.train()
        self.images, self.options, self.folder = images, options, folder
        self.run_pass, self.network = _pass_and_network(self.tokenizer)
        codebook = learned_codebook(self.tokenizer)
        self.codebook = None if codebook is None else CodebookAverage(codebook, options.codebook_decay)
        self.average = AveragedModel(self.tokenizer, multi_avg_fn=running_average(options.average_decay))
        self.optimizer = self._optimizer(p for p in tokenizer.parameters() if p.requires_grad)
        self.perceptual = perceptual or (lpips() if options.perceptual else None)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.critic = PatchDiscriminator(images.shape[1]) if options.adversarial else None
        self.critic_optimizer = self._optimizer(self.critic.parameters()) if self.critic is not None else None
        self.step = self.skipped = 0

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> MuonAdamW:
        return MuonAdamW(parameters, self.options.lr, self.options.weight_decay)

    def run(
        self, report: Callable[[dict], None] = lambda row: None, stop: Callable[[], bool] = lambda: False
    ) -> NetworkTokenizer:
        """All steps that are left; `report` receives step, losses and images per second every log_every steps.

        Where `stop` says so after a step, a checkpoint is written and Interrupted raised.
        """
        self._resume()
        began, first = time.perf_counter(), self.step
        while self.step < self.options.steps:
            losses = self._one_step()
            self.step += 1
            if self.step % self.options.log_every == 0:
                rate = (self.step - first) * self.options.batch_size / (time.perf_counter() - began)
                report({"step": self.step, **{k: v.item() for k, v in losses.items()}, "images_per_second": rate})
            if self.folder and (self.step % self.options.checkpoint_every == 0 or self.step == self.options.steps):
                self._save()
            if self.step < self.options.steps and stop():
                self._stop()
        self.tokenizer.load_state_dict(self.average.module.state_dict())
        self.tokenizer.eval()
        if isinstance(self.tokenizer, LatentImageTokenizer):
            apart = math.ceil(len(self.images) / MEASURED)
            self.tokenizer.measure(self.images[::apart].float() / 255)
        return self.tokenizer

    def _stop(self) -> None:
        if self.folder:
            self._save()
        raise Interrupted(
            f"stopped at step {self.step} of the {self.tokenizer.config.name} tokenizer; the same command goes on"
        )

    def batch(self, step: int) -> Tensor:
        """(B, C, H, W) in [-1, 1]: a function of seed and step alone, every image once an epoch."""
        n, size = len(self.images), self.options.batch_size
        places = range(step * size, (step + 1) * size)
        orders = {epoch: self._shuffled(epoch) for epoch in {place // n for place in places}}
        pixels = self.images[[orders[place // n][place % n] for place in places]].float() / 127.5 - 1
        return augmented(pixels, self.options.augment, self._generator(1, step)).to(self.tokenizer.device)

    def _shuffled(self, epoch: int) -> list[int]:
        return torch.randperm(len(self.images), generator=self._generator(0, epoch)).tolist()

    def _generator(self, stream: int, number: int) -> torch.Generator:
        """Hashed, because torch's generator on a CPU takes only the lowest 32 bits of its seed."""
        key = f"{self.options.seed} {stream} {number}".encode()
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:4]))

    def _one_step(self) -> dict[str, Tensor]:
        options, pixels = self.options, self.batch(self.step)
        for optimizer in filter(None, (self.optimizer, self.critic_optimizer)):
            optimizer.set_lr(options.lr_at(self.step))
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            made = self.run_pass(self.tokenizer, pixels, options)
        images = made.images.float()
        losses = {"reconstruction": F.mse_loss(images, pixels), "penalty": made.penalty.float()}
        if options.perceptual:
            assert self.perceptual is not None
            losses["perceptual"] = options.perceptual * self.perceptual(images.clamp(-1, 1), pixels)
        if self.critic is not None and self.step >= options.adversarial_start:
            losses["adversarial"] = self._adversarial(losses["reconstruction"], images)
        finite = self._descend(self.optimizer, cast(Tensor, sum(losses.values())))
        if "adversarial" in losses:
            assert self.critic is not None and self.critic_optimizer is not None
            losses["critic"] = hinge_loss(self.critic(pixels), self.critic(images.detach()))
            self._descend(self.critic_optimizer, losses["critic"])
        if self.codebook is not None and finite:
            assert made.vectors is not None and made.ids is not None
            self.codebook.update(made.vectors, made.ids)
        self.average.update_parameters(self.tokenizer)
        self.skipped = 0 if finite else self.skipped + 1
        if self.skipped > MAX_SKIPPED:
            raise InputError(f"lr {options.lr}: {self.skipped} steps in a row had no finite gradient; give a lower one")
        return losses

    def _adversarial(self, reconstruction: Tensor, images: Tensor) -> Tensor:
        assert self.critic is not None
        loss = -self.critic(images).mean()
        last = [part for part in self.network.decoder.modules() if isinstance(part, nn.Conv2d)][-1]
        return self.options.adversarial * adaptive_weight(reconstruction, loss, last.weight) * loss

    def _descend(self, optimizer: MuonAdamW, loss: Tensor) -> bool:
        """One step of an optimizer, unless a gradient is not finite: one bad batch must not spread to every weight."""
        optimizer.zero_grad()
        loss.backward()
        finite = bool(nn.utils.clip_grad_norm_(optimizer.parameters, self.options.clip).isfinite())
        if finite:
            optimizer.step()
        return finite

    def _run(self) -> str:
        """What has to be the same for a checkpoint to be gone on with."""
        config = {key: value for key, value in self.tokenizer.config.items() if not key.startswith("_")}
        digest = hashlib.sha256(self.images.numpy().tobytes()).hexdigest()
        return json.dumps(asdict(self.options) | {"network": config, "images": digest}, sort_keys=True)

    def _parts(self) -> dict:
        parts = {"tokenizer": self.tokenizer, "average": self.average, "optimizer": self.optimizer}
        parts |= {"codebook": self.codebook, "critic": self.critic, "critic_optimizer": self.critic_optimizer}
        return {name: part for name, part in parts.items() if part is not None}

    def _save(self) -> None:
        """Written aside and renamed, so that a kill at any moment leaves a whole checkpoint."""
        assert self.folder is not None
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"step": self.step, "run": self._run(), "random": torch.get_rng_state()}
        with writing(self.folder / "training.pt") as part:
            torch.save(state, part)

    def _resume(self) -> None:
        file = self.folder and self.folder / "training.pt"
        torch.manual_seed(self.options.seed)
        if not file or not file.is_file():
            return
        try:
            state = torch.load(file, weights_only=True)
            saved = json.loads(state["run"])
        except Exception as error:  # a broken archive fails in as many ways as it can be broken
            raise InputError(f"{file}: not a checkpoint that can be read; remove it to begin again") from error
        now = json.loads(self._run())
        for key in now:
            if saved.get(key) != now[key]:
                raise InputError(f"{file}: has {key} {saved.get(key)}, not {now[key]}; give that, or another folder")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.step = state["step"]
        torch.set_rng_state(state["random"])
