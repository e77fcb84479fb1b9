"""Image tokenizers as a recipe trains them, from raw pictures in any form: train, measure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from mot_gen.tokenizers.image_base import ImageTokenizer
from mot_gen.tokenizers.image_corpus import read_images
from mot_gen.tokenizers.measure_image import reconstruction_report
from mot_gen.tokenizers.train_image import ImageTrainer, ImageTraining

log = logging.getLogger(__name__)


def train(
    tokenizer: ImageTokenizer,
    raws: Iterable[tuple[str, Any]],
    options: ImageTraining,
    folder: Path,
    report: Callable[..., None],
    stop: Callable[[], bool],
) -> None:
    """Trains in place on (name, picture) pairs, with a checkpoint in `folder` from which it goes on.

    report(step, **losses) is called now and then; where stop() says so, Interrupted is raised after a checkpoint.
    """

    def progress(row: dict) -> None:
        report(row["step"], **{name: value for name, value in row.items() if name not in ("step", "images_per_second")})

    ImageTrainer(tokenizer, _pictures(tokenizer, raws), options, folder).run(progress, stop)


def measure(tokenizer: ImageTokenizer, raws: Iterable[tuple[str, Any]]) -> dict:
    """What of these pictures the tokenizer keeps: see `reconstruction_report`."""
    return reconstruction_report(tokenizer, _pictures(tokenizer, raws).float() / 255)[0]


def _pictures(tokenizer: ImageTokenizer, raws: Iterable[tuple[str, Any]]) -> Tensor:
    """(N, C, H, W) uint8; what cannot be read is logged and left out, up to a cap."""
    pictures = read_images(list(raws), tokenizer.size, tokenizer.color_channels)
    for line in pictures.skipped:
        log.warning("skipped %s", line)
    return pictures.images
