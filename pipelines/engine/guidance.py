"""Classifier-free guidance, away from a prompt without its text and from one without its image: Guidance.

Shapes: N samples; predictions of B branches are (B * N, ...), branch after branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mot_gen.pipelines.settings import PictureSettings, check


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans 2022): unconditional + scale * (conditional - unconditional).

    Scale 1 is the conditional prediction and 0 the unconditional one; each then costs one branch instead of two.
    image_scale: a second guidance for prompts with an image (InstructPix2Pix; BAGEL, arXiv 2505.14683): the same rule
    once more, from the prompt without its image to what the first guidance gave, whose "unconditional" lacks the text.
    interval: the times, 0 clean and 1 noise, between which guidance acts, the lower one not included; outside of it
    the conditional prediction stands alone (Kynkäänniemi et al. 2024; BAGEL's cfg_interval).
    renorm: keeps the length of the result at most that of the conditional prediction (BAGEL): "global", over all
    numbers of a picture; "channel", of each token; "text_channel", of each token and of the first guidance alone.
    renorm_min: the least factor of it.
    rescale: from 0 to 1, how far the spread of the result is brought back to that of the conditional prediction (Lin et
    al. 2024, arXiv 2305.08891, section 3.4).
    """

    scale: float = 1.0
    image_scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    renorm: str | None = None
    renorm_min: float = 0.0

    def __post_init__(self):
        check("guidance_scale", self.scale)
        check("image_guidance_scale", self.image_scale)
        check("guidance_interval", self.interval)
        check("guidance_rescale", self.rescale)
        check("guidance_renorm", self.renorm)
        check("guidance_renorm_min", self.renorm_min)

    @classmethod
    def of(cls, settings: PictureSettings, image_scale: float = 1.0) -> Guidance:
        """The guidance of settled settings."""
        names = ("scale", "interval", "rescale", "renorm", "renorm_min")
        return cls(**{name: getattr(settings, f"guidance_{name}") for name in names}, image_scale=image_scale)

    @property
    def branches(self) -> tuple[str, ...]:
        """What must be predicted: of "conditional", "unconditional" and "without_image" those that count."""
        always = tuple(self.interval) == (0, 1)
        counts = self.scale != 0 and self.image_scale != 0
        needed = {
            "conditional": counts or self._renorms or not always,
            "unconditional": self.scale != 1 and self.image_scale != 0,
            "without_image": self.image_scale != 1,
        }
        return tuple(name for name, wanted in needed.items() if wanted)

    @property
    def _renorms(self) -> bool:
        """Whether there is something to be renormed."""
        return self.renorm is not None and (self.scale != 1 or self.image_scale != 1)

    def acts_at(self, time: float) -> bool:
        """Whether guidance acts at this time; the conditional branch, which is the first, is all that counts else."""
        return self.interval[0] < time <= self.interval[1]

    def combine(self, predictions: Tensor, counts: Tensor | None = None) -> Tensor:
        """(B * N, ...) -> (N, ...). counts: (N,) how many tokens of (n, C) are of the span, if others pad it by 0."""
        if len(self.branches) == 1:
            return predictions
        parts = dict(zip(self.branches, predictions.chunk(len(self.branches))))
        guided = self._by_image(parts, self._by_text(parts))
        conditional = parts.get("conditional")
        if conditional is None:
            return guided
        if self.renorm in ("global", "channel"):
            guided = self._renormed(guided, conditional)
        if self.rescale:
            ratio = _spread(conditional, counts) / _spread(guided, counts).clamp_min(1e-8)
            guided = guided * (1 + self.rescale * (ratio - 1))
        return guided

    def _by_text(self, parts: Mapping[str, Tensor]) -> Tensor | None:
        """Away from the prompt without its text. None where `image_scale` leaves all of this out."""
        if self.image_scale == 0:
            return None
        if self.scale == 0:
            guided = parts["unconditional"]
        elif self.scale == 1:
            guided = parts["conditional"]
        else:
            guided = torch.lerp(parts["unconditional"], parts["conditional"], self.scale)
        return self._renormed(guided, parts["conditional"]) if self.renorm == "text_channel" else guided

    def _by_image(self, parts: Mapping[str, Tensor], guided: Tensor | None) -> Tensor:
        """Away from the prompt without its image."""
        if guided is None:
            return parts["without_image"]
        if self.image_scale == 1:
            return guided
        return torch.lerp(parts["without_image"], guided, self.image_scale)

    def _renormed(self, guided: Tensor, conditional: Tensor) -> Tensor:
        """(N, n, C) no longer than the conditional prediction: as a whole, or token by token."""
        if self.renorm == "global":
            length, wanted = guided.flatten(1).norm(dim=1), conditional.flatten(1).norm(dim=1)
            length, wanted = length[:, None, None], wanted[:, None, None]
        else:
            length, wanted = guided.norm(dim=-1, keepdim=True), conditional.norm(dim=-1, keepdim=True)
        return guided * (wanted / (length + 1e-8)).clamp(self.renorm_min, 1.0)


def _spread(x: Tensor, counts: Tensor | None) -> Tensor:
    """The standard deviation over all but the first dimension, which is kept."""
    each = tuple(range(1, x.dim()))
    numbers = x[0].numel() if counts is None else (counts * x.shape[-1]).view(-1, *[1] * (x.dim() - 1))
    mean, square = x.sum(each, keepdim=True) / numbers, x.square().sum(each, keepdim=True) / numbers
    return (square - mean.square()).clamp_min(0).sqrt()
