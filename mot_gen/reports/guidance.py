"""choose_guidance: how strongly pictures follow their captions, chosen on held-out data at the end of a run.

Weak guidance draws pictures that do not show what was asked for; strong guidance draws all of them alike. A model that
also writes captions can judge that itself. Pictures are drawn from held-out captions at several strengths, and the
model says how likely each caption is, given the picture that was drawn from it. The least guidance whose pictures are
as easy to caption as the real ones is taken; where there is none, the one whose captions are likeliest. A model that
finds captions as likely after another picture as after their own cannot judge, and nothing is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

from mot_gen.data.records import Pair, Splits
from mot_gen.data.samples import captioned_pairs
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.reports.generated import caption_losses, draw, pictures_of

STRENGTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
COUNT = 100  # captions that pictures are drawn from, at each strength
TOLERANCE = 1.05  # of the loss on real pictures: within it, a drawn picture is as easy to caption


def held_out_pairs(splits: Splits, count: int = COUNT) -> list[Pair]:
    """Pictures with captions, spread over what is held out, or over the training set where nothing is."""
    samples = splits.held_out if len(splits.held_out) else splits.train
    stride = max(1, len(samples) // count)
    chosen = (samples[number] for number in range(0, len(samples), stride))
    return captioned_pairs(chosen)[:count]


def choose_guidance(
    pipe: TextToImagePipeline, pairs: Sequence[Pair], seed: int
) -> tuple[float | None, dict[str, float]]:
    """The strength, or None where the model cannot judge; and the mean loss (nats a caption) at each strength, on the
    real pictures and on real pictures of other captions. seed: of the noise, the same at every strength."""
    captions = [pair.captions[0] for pair in pairs]
    pictures = pictures_of(pairs, pipe.image_tokenizer)
    half = len(pictures) // 2  # far away, since neighbours may show the same
    real, other = (_loss(pipe, seen, captions) for seen in (pictures, [*pictures[half:], *pictures[:half]]))
    if not reads(real, other):
        return None, {"real": real, "other": other}
    losses = {strength: _loss(pipe, _draw(pipe, captions, strength, seed), captions) for strength in STRENGTHS}
    found = {f"{strength:g}": loss for strength, loss in losses.items()} | {"real": real, "other": other}
    return least_as_good(losses, real), found


def reads(real: float, other: float) -> bool:
    """Whether captions are likelier after their own pictures (the loss `real`) than after others by more than what is
    tolerated. Where they are not, any picture at all would be as easy to caption as the real one."""
    return other > TOLERANCE * real


def least_as_good(losses: dict[float, float], real: float) -> float:
    """The least strength whose loss is within TOLERANCE of the real pictures', else the one with the least loss."""
    for strength in sorted(losses):
        if losses[strength] <= TOLERANCE * real:
            return strength
    return min(losses, key=lambda strength: losses[strength])


def _draw(pipe: TextToImagePipeline, captions: Sequence[str], strength: float, seed: int) -> list:
    return list(draw(pipe, captions, range(seed, seed + len(captions)), guidance_scale=strength))


def _loss(pipe: MultimodalPipeline, images: Sequence, captions: Sequence[str]) -> float:
    return caption_losses(pipe, images, captions).mean().item()
