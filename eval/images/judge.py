"""Judges: small classifiers trained on real pictures, that say what generated ones show. Judge, AttributeJudge, fit.

`Judge` names one class of pictures as small as digits; `AttributeJudge` has a head for each of several attributes, such
as name, place and ground, and is trained on pictures drawn anew for every step.

A judge is believed as far as it was shown to discriminate: `reliability` gives its accuracy on held-out real pictures,
on damaged ones, and its agreement with random labels on noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.errors import InputError


def _stage(narrow: int, wide: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(narrow, wide, 3, stride, 1), nn.GroupNorm(8, wide), nn.ReLU()]


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

        self.features = nn.Sequential(
            *_stage(channels, width, 1), *_stage(width, 2 * width, 2), *_stage(2 * width, 2 * width, 2)
        )
        self.classify = nn.Linear(2 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, classes) logits."""
        return self.classify(self.features(images * 2 - 1).amax((2, 3)))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N,) classes."""
        return torch.cat([self(part).argmax(-1) for part in images.split(256)])

    def agreement(self, images: Tensor, labels: Tensor) -> float:
        """The share of pictures (N, C, H, W) in which it sees their labels (N,)."""
        return (self.predict(images) == labels).double().mean().item()

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 2 * width) pooled features, for a Frechet distance between pictures of this kind."""
        return torch.cat([self.features(part * 2 - 1).mean((2, 3)) for part in images.split(256)])


class AttributeJudge(nn.Module):
    """Pictures (N, 3, H, W) uint8, H and W multiples of 8, to several integers each. heads: attribute -> its number of
    values. placed: attributes that are read where they are in the picture; others wherever they are found in it."""

    def __init__(self, heads: Mapping[str, int], size: tuple[int, int], placed: Sequence[str] = (), width: int = 32):
        super().__init__()
        self.size, last = tuple(size), 4 * width
        self.features = nn.Sequential(
            *_stage(3, width, 1),
            *_stage(width, 2 * width, 2),
            *_stage(2 * width, last, 2),
            *_stage(last, last, 2),
        )
        self.placed = frozenset(placed)
        cells = size[0] // 8 * (size[1] // 8)
        self.heads = nn.ModuleDict()
        for name, count in heads.items():
            channels = cells * last if name in self.placed else last
            self.heads[name] = nn.Sequential(nn.Flatten(), nn.Linear(channels, count))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) uint8 -> attribute -> (N, values) logits."""
        if images.dtype != torch.uint8 or images.shape[1:] != (3, *self.size):
            raise InputError(
                f"this judge takes uint8 (N, 3, {self.size[0]}, {self.size[1]}), got {images.dtype} "
                f"{tuple(images.shape)}; resize the pictures"
            )
        maps = self.features(images / 127.5 - 1)
        anywhere = maps.amax((2, 3))
        logits = {}
        for name, head in self.heads.items():
            logits[name] = head(maps) if name in self.placed else head(anywhere)
        return logits

    @torch.no_grad()
    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) uint8 -> attribute -> (N,) values."""
        parts = [self(part) for part in images.split(256)]
        return {name: torch.cat([part[name].argmax(-1) for part in parts]) for name in self.heads}

    def accuracy(self, images: Tensor, wanted: Mapping[str, Tensor]) -> dict[str, float]:
        """The share of pictures with the wanted value by attribute, and under "all" with every one of them."""
        found = self.predict(images)
        right = {name: found[name] == values for name, values in wanted.items()}
        right["all"] = torch.stack(list(right.values())).all(0)
        return {name: value.double().mean().item() for name, value in right.items()}


Draw = Callable[[int], tuple[Tensor, dict[str, Tensor]]]  # step -> pictures (n, 3, H, W) uint8, attribute -> (n,)


def train_attribute_judge(
    draw: Draw, heads: Mapping[str, int], placed: Sequence[str], steps: int, seed: int = 0
) -> AttributeJudge:
    """An `AttributeJudge` trained on the pictures of `draw(step)`, blurred, dimmed and made noisy at random, so that
    what a model draws nearly right is still named. The caller's random state is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        height, width = draw(0)[0].shape[2:]
        judge = AttributeJudge(heads, (height, width), placed)

        def losses() -> Iterator[Tensor]:
            for step in range(steps):
                images, labels = draw(step)
                logits = judge(_damaged(images))
                each = [F.cross_entropy(logits[name], labels[name], label_smoothing=0.05) for name in heads]
                yield reduce(torch.add, each)

        return fit(judge, losses(), steps)


def _damaged(images: Tensor) -> Tensor:
    """Shifted by up to a pixel, half of them blurred, then contrast, brightness and noise of a random strength."""
    pixels = _shifted(images.float())
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    strength = torch.rand(4, len(pixels), 1, 1, 1)
    pixels = pixels.lerp(blurred, (strength[0] * 2 - 1).clamp(min=0))
    pixels = (pixels - 128) * (0.8 + 0.4 * strength[1]) + 128 + 30 * (strength[2] - 0.5)
    return (pixels + 24 * strength[3] * torch.randn_like(pixels)).round().clamp(0, 255).to(torch.uint8)


Network = TypeVar("Network", bound="nn.Module")


def fit(network: Network, losses: Iterable[Tensor], steps: int) -> Network:
    """Minimise losses, each computed when it is asked for, by AdamW with one cycle of its rate; in eval mode after."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for loss in losses:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def train_judge(images: Tensor, labels: Tensor, classes: int, epochs: int = 40, seed: int = 0) -> Judge:
    """Train on real pictures (N, C, H, W) in [0, 1] and labels (N,), shifted by up to one pixel; some seconds on a CPU.

    The same seed gives the same judge, and the caller's random state is untouched.
    """
    if len(images) != len(labels) or not len(images):
        raise InputError(f"a judge needs as many labels as pictures, and some; got {len(labels)} for {len(images)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(images.shape[1], classes)
        return fit(judge, _losses(judge, images, labels, epochs), epochs * -(-len(images) // 64))


def _losses(judge: Judge, images: Tensor, labels: Tensor, epochs: int) -> Iterator[Tensor]:
    """The loss of each step: batches of 64 pictures, each moved a little."""
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(64):
            scores = judge(_shifted(images[chosen]))
            yield F.cross_entropy(scores, labels[chosen], label_smoothing=0.05)


def _shifted(images: Tensor) -> Tensor:
    """Each batch moved by -1, 0 or 1 pixels both ways; the border is repeated."""
    down, right = torch.randint(0, 3, (2,)).tolist()
    height, width = images.shape[2:]
    return F.pad(images, (1, 1, 1, 1), mode="replicate")[:, :, down : down + height, right : right + width]


def reliability(judge: Judge, images: Tensor, labels: Tensor, seed: int = 0) -> Reliability:
    """How far a judge can be believed, on held-out real pictures (N, C, H, W) in [0, 1] and their labels (N,)."""
    generator = torch.Generator().manual_seed(seed)

    noisy = (images + 0.5 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    half = images.clone()
    half[..., images.shape[-1] // 2 :] = images[..., :1, :1]  # the background, as the corner shows it
    order = torch.randperm(images[0, 0].numel(), generator=generator)
    shuffled = images.flatten(2)[..., order].view_as(images)
    noise = torch.rand(images.shape, generator=generator)
    random_labels = labels[torch.randperm(len(labels), generator=generator)]
    return Reliability(
        judge.agreement(images, labels),
        judge.agreement(noisy, labels),
        judge.agreement(half, labels),
        judge.agreement(shuffled, labels),
        judge.agreement(noise, random_labels),
        len(images),
    )
