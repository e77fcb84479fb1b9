"""What a detector of objects sees: `load_detector`, from a folder, a function or a file of detections.

    detect(image (3, H, W) uint8) -> [{"class", "score", "box": [x0, y0, x1, y1], "color"?}, ...]

Boxes are pixels, y grows downwards. `ColorNamer` adds colours by CLIP, as GenEval does it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mot_gen.eval.extras import facts_of, find_named
from mot_gen.eval.images.clip import ClipEncoder
from mot_gen.eval.images.extractors import precision, weights_sha256
from mot_gen.eval.transformers_folders import network_of, processor_of

Detection = dict[str, Any]
Detect = Callable[[Tensor], list[Detection]]

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
PROMPTS = ("a photo of a {} {}", "a photo of a {}-colored {}", "a photo of a {} object")
LEAST = 0.1  # detections below are not even listed; benchmarks apply their own thresholds


class TransformersDetector(nn.Module):
    """A transformers object detector (DETR, RT-DETR, ...) and its image processor from a local folder."""

    def __init__(self, folder: str | Path):
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        super().__init__()
        self.model = network_of(AutoModelForObjectDetection, folder, "save an object detector and its processor there")
        self.processor = processor_of(AutoImageProcessor, folder)
        self.name, self.sha256 = Path(folder).name, weights_sha256(self.model)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> list[Detection]:
        """All that is detected with a score of at least 0.1, the surest first."""
        prepared = self.processor(images=image, return_tensors="pt", input_data_format="channels_first")
        with precision("float32", self.model.device.type):
            output = self.model(**prepared.to(self.model.device))
        size = [tuple(image.shape[-2:])]
        (found,) = self.processor.post_process_object_detection(output, threshold=LEAST, target_sizes=size)
        detections = []
        for score, label, box in zip(found["scores"].tolist(), found["labels"].tolist(), found["boxes"].tolist()):
            detections.append({"class": self.model.config.id2label[label], "score": score, "box": box})
        return sorted(detections, key=lambda one: -one["score"])

    def provenance(self) -> dict[str, str]:
        return {"detector": self.name, "detector_sha256": self.sha256}


def load_detector(detector: Detect | str | Path) -> Detect:
    """A detector from a folder of transformers, a function by "package.module:NAME", or a function."""
    if not isinstance(detector, (str, Path)):
        return detector
    if (Path(detector) / "config.json").exists():
        return TransformersDetector(detector)
    return find_named(str(detector), "detector")


def detector_facts(detector: Any) -> dict[str, str]:
    """What is known of a detector, for signatures."""
    return facts_of(detector, "detector")


class ColorNamer:
    """Adds "color" to detections: the colour whose texts are nearest to what lies in the box, by a CLIP.

    As GenEval's, which also greys out what the detector's mask leaves of the box; boxes have no mask.
    """

    def __init__(self, clip: ClipEncoder | str | Path):
        self.clip = ClipEncoder(clip, prefix="") if isinstance(clip, (str, Path)) else clip
        self._texts: dict[str, Tensor] = {}

    def __call__(self, image: Tensor, detections: Sequence[Detection]) -> list[Detection]:
        """Detections of one image (3, H, W) uint8; those whose box holds no pixel stay without a colour."""
        found = []
        for detection in detections:
            part = _cut(image, detection["box"])
            if part is None:
                found.append(dict(detection))
            else:
                found.append({**detection, "color": self.color(part, detection["class"])})
        return found

    def color(self, part: Tensor, name: str) -> str:
        """One of COLORS, of an object (3, h, w) uint8 of a class."""
        if name not in self._texts:
            self._texts[name] = self._classes(name)
        cosines = torch.nn.functional.normalize(self.clip.images(part[None]), dim=1) @ self._texts[name].mT
        return COLORS[int(cosines.argmax())]

    def _classes(self, name: str) -> Tensor:
        """(colours, d) unit vectors, each the mean over three texts."""
        texts = [prompt.format(color, name) for color in COLORS for prompt in PROMPTS]
        vectors = torch.nn.functional.normalize(self.clip.texts(texts)[0], dim=1)
        return torch.nn.functional.normalize(vectors.view(len(COLORS), len(PROMPTS), -1).mean(1), dim=1)


def _cut(image: Tensor, box: Sequence[float]) -> Tensor | None:
    left, top, right, bottom = (round(max(0.0, edge)) for edge in box)
    part = image[:, top:bottom, left:right]
    return part if part.numel() else None
