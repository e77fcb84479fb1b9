"""What people prefer, as CLIPs that were trained on their choices predict it: PreferenceScore.

PickScore (Kirstain et al. 2023) is the model's scaled cosine, exp(logit_scale) cos(image, text); HPSv2 (Wu et al. 2023)
is the cosine itself. Both are folders of a transformers CLIP: yuvalkirstain/PickScore_v1, and HPSv2's weights converted
to that form. Compare values of one model only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mot_gen.errors import InputError, nearest
from mot_gen.eval.images.clip import ClipEncoder, ClipMetric, check_matched, cosines
from mot_gen.eval.text.segments import mean_rows

KINDS = ("pickscore", "hpsv2")


class PreferenceScore(ClipMetric):
    """`update(images, texts)`: images or embeddings (N, d); texts or embeddings (N, d). Mean over images.

    kind: "pickscore" or "hpsv2". encoder: the folder of its model; texts get no prefix.
    """

    takes = "image and text embeddings"

    def __init__(self, kind: str = "hpsv2", encoder: ClipEncoder | str | Path | None = None, **kwargs):
        if kind not in KINDS:
            raise InputError(f"preference score {kind!r} is not known" + nearest(kind, KINDS))
        if isinstance(encoder, (str, Path)):
            encoder = ClipEncoder(encoder, prefix="")
        super().__init__(encoder, **kwargs)
        self.name = kind

    def statistics(self, images: Tensor, texts: Tensor | Sequence[str]) -> Tensor:
        found = cosines(*check_matched(self.image_embeddings(images), self.text_embeddings(texts)))
        return mean_rows(found * self._scale())

    def _scale(self) -> float:
        if self.name == "hpsv2" or self.encoder is None:
            return 1.0
        return torch.exp(self.encoder.model.logit_scale.detach()).item()
