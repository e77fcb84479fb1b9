"""How well rendered text can be read back: OcrAccuracy. Reads with rapidocr (extra: ocr), or scores given readings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.eval.extras import extra_module
from mot_gen.eval.images.inputs import to_uint8
from mot_gen.eval.text.segments import SegmentMetric, mean_rows, mean_score


def similarity(reading: str, wanted: str) -> float:
    """1 - edits / length of the longer, of the texts without case and spacing; two empty texts agree."""
    one, two = ("".join(text.casefold().split()) for text in (reading, wanted))
    return extra_module("rapidfuzz.distance", "OCR accuracy").Levenshtein.normalized_similarity(one, two)


def reader():
    """A function from one image (3, H, W) uint8 to its text, by rapidocr's models, which its package carries."""
    engine = extra_module("rapidocr_onnxruntime", "OCR accuracy", "ocr").RapidOCR()

    def read(image: Tensor) -> str:
        lines, _ = engine(image.permute(1, 2, 0).flip(-1).cpu().numpy())  # rapidocr takes BGR, as OpenCV does
        return " ".join(text for _, text, _ in lines or [])

    return read


class OcrAccuracy(SegmentMetric):
    """`update(images or readings, texts)`: mean similarity between what is read and what was asked for, in [0, 1].

    read: a function from an image (3, H, W) uint8 to text; rapidocr by default, loaded when the first image comes.
    """

    name = "ocr_similarity"
    unit = "images"
    takes = "transcripts"
    higher_is_better = True

    def __init__(self, *, read=None, engine: str = "rapidocr", **kwargs):
        super().__init__(**kwargs)
        self.read, self.engine = read, engine

    def statistics(self, images: Tensor | Sequence[str], texts: Sequence[str]) -> Tensor:
        if len(images) != len(texts):
            raise InputError(f"{len(images)} images against {len(texts)} texts; give one text for each image")
        readings = self.readings(images) if isinstance(images, Tensor) else images
        scores = [similarity(reading, wanted) for reading, wanted in zip(readings, texts)]
        return mean_rows(torch.tensor(scores, dtype=torch.float64))

    def readings(self, images: Tensor) -> list[str]:
        """What is read in each of (N, 3, H, W)."""
        self.read = self.read or reader()
        return [self.read(image) for image in to_uint8(images)]

    def score(self, total: Tensor) -> float:
        return mean_score(total)

    def provenance(self) -> dict:
        return {"reader": self.engine}

    def details(self, rows: Tensor) -> dict[str, float]:
        return {"exact": (rows[:, 0] == 1).double().mean().item()}
