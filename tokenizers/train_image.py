"""Training image tokenizers, VQImageTokenizer, ScalesImageTokenizer and the KL autoencoder of LatentImageTokenizer:
ImageTrainer, the loop.

One step is reconstruction (mean squared error), plus the commitment of the vectors to their entries (VQ) or the
divergence from a unit Gaussian (KL), plus a perceptual and an adversarial loss where asked for. The settings are in
`image_training`, the losses in `image_losses`.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from mot_gen.errors import InputError
from mot_gen.sequence.moving import upload
from mot_gen.tokenizers.image_latent import LatentImageTokenizer
from mot_gen.tokenizers.image_losses import (
    CodebookAverage,
    NetworkPass,
    PatchDiscriminator,
    adaptive_weight,
    hinge_loss,
    learned_codebook,
    lpips,
    pass_and_network,
)
from mot_gen.tokenizers.image_training import (
    ImageTraining,
    VQTraining,
    augment_batch,
    small_kl,
    small_scales,
    small_vq,
)
from mot_gen.tokenizers.muon import MuonAdamW
from mot_gen.tokenizers.pretrained import NetworkTokenizer, stated_config
from mot_gen.tokenizers.training_loop import run_steps
from mot_gen.tokenizers.training_state import load_state, save_state

__all__ = ["ImageTrainer", "ImageTraining", "VQTraining", "small_kl", "small_scales", "small_vq"]

STATE = "training.pt"
MEASURED = 4096  # images, at most, that tell the scale of the latents
MAX_SKIPPED = 20  # steps in a row without a finite gradient


class ImageTrainer:
    """Trains a tokenizer, on the device where it is, on images (N, C, H, W) uint8 on the CPU, keeping a checkpoint in
    `folder` from which it resumes.

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
        self.run_pass, self.network = pass_and_network(self.tokenizer)
        codebook = learned_codebook(self.tokenizer)
        self.codebook = None if codebook is None else CodebookAverage(codebook, options.codebook_decay)
        self.average = AveragedModel(self.tokenizer, multi_avg_fn=self._average)
        self.optimizer = self._optimizer(p for p in tokenizer.parameters() if p.requires_grad)
        self.perceptual = perceptual or (lpips().to(tokenizer.device) if options.perceptual else None)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            critic = PatchDiscriminator(images.shape[1]) if options.adversarial else None
        self.critic = None if critic is None else critic.to(tokenizer.device)
        self.critic_optimizer = self._optimizer(self.critic.parameters()) if self.critic is not None else None
        self.step = self.skipped = 0

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> MuonAdamW:
        return MuonAdamW(parameters, self.options.lr, self.options.weight_decay)

    def run(
        self, report: Callable[[dict], None] = lambda row: None, stop: Callable[[], bool] = lambda: False
    ) -> NetworkTokenizer:
        """All steps that are left, see `run_steps`; rows for `report` also have images_per_second."""
        torch.manual_seed(self.options.seed)
        self._resume()
        began, first = time.perf_counter(), self.step

        def report_with_rate(row: dict) -> None:
            images = (self.step - first) * self.options.batch_size
            report(row | {"images_per_second": images / (time.perf_counter() - began)})

        run_steps(self, report_with_rate, self._save, stop)
        self.tokenizer.load_state_dict(self.average.module.state_dict())
        self.tokenizer.eval()
        if isinstance(self.tokenizer, LatentImageTokenizer):
            apart = math.ceil(len(self.images) / MEASURED)
            self.tokenizer.measure(self.images[::apart].float() / 255)
        return self.tokenizer

    def batch(self, step: int) -> Tensor:
        """(B, C, H, W) in [-1, 1]: a function of seed and step alone, every image once an epoch."""
        n, size = len(self.images), self.options.batch_size
        first, last = step * size, (step + 1) * size - 1
        epochs = range(first // n, last // n + 1)
        order = [number for epoch in epochs for number in self._shuffled(epoch)]
        begin = first % n
        pixels = self.images[order[begin : begin + size]].float() / 127.5 - 1
        return upload(augment_batch(pixels, self.options.augment, self._generator(1, step)), self.tokenizer.device)

    def _shuffled(self, epoch: int) -> list[int]:
        return torch.randperm(len(self.images), generator=self._generator(0, epoch)).tolist()

    def _generator(self, stream: int, number: int) -> torch.Generator:
        """Hashed, because torch's generator on a CPU takes only the lowest 32 bits of its seed."""
        key = f"{self.options.seed} {stream} {number}".encode()
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:4]))

    def one_step(self) -> dict[str, Tensor]:
        """One batch; its losses by name, each with its weight."""
        options, pixels = self.options, self.batch(self.step)
        lr = options.lr_at(self.step)
        self.optimizer.set_lr(lr)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            made = self.run_pass(self.tokenizer, pixels, options)
        losses = self._losses(made, pixels)
        finite = self._descend(self.optimizer, cast(Tensor, sum(losses.values())))
        if "adversarial" in losses:
            losses["critic"] = self._train_critic(pixels, made.images.float().detach(), lr)
        if self.codebook is not None and finite:
            assert made.vectors is not None and made.ids is not None
            self.codebook.update(made.vectors, made.ids)
        self.average.update_parameters(self.tokenizer)
        self._count_skipped(finite)
        return losses

    def _average(self, averages: Any, weights: Any, _: Any) -> None:
        """One update of lists of tensors. A share of the average stays, less in the first updates, so that no run is
        too short for it: of n updates, as many as a tenth count at any time until `average_decay` is reached."""
        n = self.step
        torch._foreach_lerp_(averages, weights, 1 - min(self.options.average_decay, (1 + n) / (10 + n)))

    def _losses(self, made: NetworkPass, pixels: Tensor) -> dict[str, Tensor]:
        """What the tokenizer learns from, of what it made of pixels (B, C, H, W)."""
        images = made.images.float()
        losses = {"reconstruction": F.mse_loss(images, pixels), "penalty": made.penalty.float()}
        if self.options.perceptual:
            assert self.perceptual is not None
            losses["perceptual"] = self.options.perceptual * self.perceptual(images.clamp(-1, 1), pixels)
        if self.critic is not None and self.step >= self.options.adversarial_start:
            losses["adversarial"] = self._adversarial(self.critic, losses["reconstruction"], images)
        return losses

    def _adversarial(self, critic: PatchDiscriminator, reconstruction: Tensor, images: Tensor) -> Tensor:
        """How well the critic tells images from real ones, weighted by the two gradients at the last layer."""
        loss = -critic(images).mean()
        last = [part for part in self.network.decoder.modules() if isinstance(part, nn.Conv2d)][-1]
        return self.options.adversarial * adaptive_weight(reconstruction, loss, last.weight) * loss

    def _train_critic(self, real: Tensor, fake: Tensor, lr: float) -> Tensor:
        """One step of the critic; its loss."""
        assert self.critic is not None and self.critic_optimizer is not None
        self.critic_optimizer.set_lr(lr)
        loss = hinge_loss(self.critic(real), self.critic(fake))
        self._descend(self.critic_optimizer, loss)
        return loss

    def _count_skipped(self, finite: bool) -> None:
        """InputError where too many steps in a row had no finite gradient."""
        self.skipped = 0 if finite else self.skipped + 1
        if self.skipped > MAX_SKIPPED:
            lr = self.options.lr
            raise InputError(f"lr {lr}: {self.skipped} steps in a row had no finite gradient; give a lower one")

    def _descend(self, optimizer: MuonAdamW, loss: Tensor) -> bool:
        """One step of an optimizer, unless a gradient is not finite: one bad batch must not spread to every weight."""
        optimizer.zero_grad()
        loss.backward()
        finite = bool(nn.utils.clip_grad_norm_(optimizer.parameters, self.options.clip).isfinite())
        if finite:
            optimizer.step()
        return finite

    def _run(self) -> dict[str, Any]:
        """What has to be the same for a checkpoint to be gone on with."""
        digest = hashlib.sha256(self.images.numpy().tobytes()).hexdigest()
        return asdict(self.options) | {"network": stated_config(self.tokenizer), "images": digest}

    def _parts(self) -> dict[str, Any]:
        """What a checkpoint holds the state of."""
        parts = {"tokenizer": self.tokenizer, "average": self.average, "optimizer": self.optimizer}
        parts |= {"codebook": self.codebook, "critic": self.critic, "critic_optimizer": self.critic_optimizer}
        return {name: part for name, part in parts.items() if part is not None}

    def _save(self) -> None:
        """Write a checkpoint, where there is a folder for it."""
        if self.folder is None:
            return
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"step": self.step, "random": torch.get_rng_state()}
        if self.tokenizer.device.type == "cuda":
            state["random_of_gpu"] = torch.cuda.get_rng_state(self.tokenizer.device)
        save_state(self.folder / STATE, self._run(), state)

    def _resume(self) -> None:
        """Go on from the checkpoint of the folder, if there is one."""
        state = None if self.folder is None else load_state(self.folder / STATE, self._run())
        if state is None:
            return
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.step = state["step"]
        torch.set_rng_state(state["random"])
        if self.tokenizer.device.type == "cuda" and "random_of_gpu" in state:
            torch.cuda.set_rng_state(state["random_of_gpu"], self.tokenizer.device)
