"""Training image tokenizers, VQImageTokenizer, ScalesImageTokenizer and the KL autoencoder of LatentImageTokenizer:
ImageTrainer, the loop.

One step is reconstruction (mean squared error), plus the commitment of the vectors to their entries (VQ) or the
divergence from a unit Gaussian (KL), plus a perceptual and an adversarial loss where asked for. The settings are in
`image_training`, the losses in `image_losses`.
"""

from __future__ import annotations

import hashlib
import json
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

from mot_gen.errors import InputError, Interrupted
from mot_gen.files.whole import writing
from mot_gen.tokenizers.image_latent import LatentImageTokenizer
from mot_gen.tokenizers.image_losses import (
    CodebookAverage,
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
    augmented,
    small_kl,
    small_scales,
    small_vq,
)
from mot_gen.tokenizers.muon import MuonAdamW
from mot_gen.tokenizers.pretrained import NetworkTokenizer

__all__ = ["ImageTrainer", "ImageTraining", "VQTraining", "small_kl", "small_scales", "small_vq"]

MEASURED = 4096  # images, at most, that tell the scale of the latents
MAX_SKIPPED = 20  # steps in a row without a finite gradient


def running_average(decay: float) -> Callable:
    """For AveragedModel: a share `decay` of the average stays at each update, less in the first, so that no run is too
    short for it: of n updates, as many as a tenth count at any time until `decay` is reached."""

    def update(averages: list[Tensor], weights: list[Tensor], updates: Tensor) -> None:
        n = float(updates)
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + n) / (10 + n)))

    return update


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
        self.run_pass, self.network = pass_and_network(self.tokenizer)
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
