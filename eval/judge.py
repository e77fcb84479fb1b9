"""Judge: a small classifier trained on real pictures, that says of which class generated ones are.

A judge is believed as far as it was shown to discriminate: `reliability` gives its accuracy on held-out real pictures,
on damaged ones, and its agreement with random labels on noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.errors import InputError


@dataclass(frozen=True)
class Reliability:
    """Accuracies of a judge: on held-out real pictures; on the same with noise of deviation 0.5 added, with one half
    blanked, and with their pixels shuffled; and its agreement with random labels on uniform noise. n pictures each."""

    real: float
    noisy: float
    half: float
    shuffled: float
    noise: float
    n: int


class Judge(nn.Module):
    """Three convolutions and a linear layer on pictures (N, C, H, W) in [0, 1]; C, H, W and the classes are fixed."""

    def __init__(self, channels: int, classes: int, width: int = 32):
        super().__init__()

        def stage(narrow: int, wide: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(narrow, wide, 3, stride, 1), nn.GroupNorm(8, wide), nn.ReLU()]

        self.features = nn.Sequential(
            *stage(channels, width, 1), *stage(width, 2 * width, 2), *stage(2 * width, 2 * width, 2)
        )
        self.classify = nn.Linear(2 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, classes) logits."""
        return self.classify(self.features(images * 2 - 1).amax((2, 3)))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N,) classes."""
        return torch.cat([self(part).argmax(-1) for part in images.split(256)])

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 2 * width) pooled features, for a Frechet distance between pictures of this kind."""
        return torch.cat([self.features(part * 2 - 1).mean((2, 3)) for part in images.split(256)])


def train_judge(images: Tensor, labels: Tensor, classes: int, epochs: int = 40, seed: int = 0) -> Judge:
    """Train on real pictures (N, C, H, W) in [0, 1] and labels (N,), shifted by up to one pixel; some seconds on a CPU.

    The same seed gives the same judge, and the caller's random state is untouched.
    """
    if len(images) != len(labels) or not len(images):
        raise InputError(f"a judge needs as many labels as pictures, and some; got {len(labels)} for {len(images)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(images.shape[1], classes)
        steps = epochs * -(-len(images) // 64)
        optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3, weight_decay=0.05, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        for _ in range(epochs):
            for chosen in torch.randperm(len(images)).split(64):
                loss = F.cross_entropy(judge(_shifted(images[chosen])), labels[chosen], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return judge.eval()


def _shifted(images: Tensor) -> Tensor:
    """Each batch moved by -1, 0 or 1 pixels both ways; the border is repeated."""
    down, right = torch.randint(0, 3, (2,)).tolist()
    height, width = images.shape[2:]
    return F.pad(images, (1, 1, 1, 1), mode="replicate")[:, :, down : down + height, right : right + width]


def reliability(judge: Judge, images: Tensor, labels: Tensor, seed: int = 0) -> Reliability:
    """How far a judge can be believed, on held-out real pictures (N, C, H, W) in [0, 1] and their labels (N,)."""
    generator = torch.Generator().manual_seed(seed)

    def agreement(pictures: Tensor, wanted: Tensor = labels) -> float:
        return (judge.predict(pictures) == wanted).double().mean().item()

    noisy = (images + 0.5 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    half = images.clone()
    half[..., images.shape[-1] // 2 :] = images[..., :1, :1]  # the background, as the corner shows it
    order = torch.randperm(images[0, 0].numel(), generator=generator)
    shuffled = images.flatten(2)[..., order].view_as(images)
    noise = torch.rand(images.shape, generator=generator)
    random_labels = labels[torch.randperm(len(labels), generator=generator)]
    return Reliability(
        agreement(images),
        agreement(noisy),
        agreement(half),
        agreement(shuffled),
        agreement(noise, random_labels),
        len(images),
    )
