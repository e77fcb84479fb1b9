"""Image-text agreement by CLIP: CLIPScore, RefCLIPScore, RPrecision; ClipEncoder makes the embeddings.

CLIPScore    = w * max(cos(image, text), 0), w = 2.5                                       (Hessel et al. 2021)
RefCLIPScore = harmonic mean of CLIPScore and max over references of max(cos(text, reference), 0)
R-precision  = share of images whose own text is nearest among all candidates              (Park et al. 2021)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mot_gen.errors import InputError, require
from mot_gen.eval.images.backbones import image_processor
from mot_gen.eval.images.batches import batch_of
from mot_gen.eval.images.extractors import precision, weights_sha256
from mot_gen.eval.images.inputs import to_uint8
from mot_gen.eval.text.segments import SegmentMetric, mean_rows, mean_score
from mot_gen.eval.transformers_folders import network_of, processor_of

WEIGHT = 2.5
PREFIX = "A photo depicts "  # CLIPScore's authors put it before every caption


class ClipEncoder(nn.Module):
    """Images (N, 3, H, W) and texts to embeddings (N, d), by a CLIP that transformers saved in a local folder.

    Images go through the folder's own processor: CLIP's resizes the short side and cuts out the centre. A text beyond
    the model's 77 tokens is cut *before* the end-of-text token, from which CLIP reads the embedding; a metric that cuts
    that token off measures noise. `texts` counts such texts. prefix: put before every text.
    """

    def __init__(self, folder: str | Path, *, prefix: str = PREFIX):
        from transformers import AutoTokenizer, CLIPModel

        super().__init__()
        self.model = network_of(CLIPModel, folder, "save a transformers CLIP and its processor there")
        self.tokenizer = processor_of(AutoTokenizer, folder)
        self.processor, self.preprocessing = image_processor(Path(folder))
        self.name, self.prefix, self.sha256 = Path(folder).name, prefix, weights_sha256(self.model)
        self.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return self.model.device

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """(N, d) float32."""
        levels = to_uint8(images).expand(-1, 3, -1, -1).cpu()
        prepared = self.processor(images=list(levels), return_tensors="pt", input_data_format="channels_first")
        pixels = prepared["pixel_values"].to(self.device)
        with precision("float32", self.device.type):
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            return self.model.visual_projection(pooled)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> tuple[Tensor, int]:
        """(N, d) float32, and how many texts were cut."""
        longest = self.model.config.text_config.max_position_embeddings
        prefixed = [self.prefix + text for text in texts]
        cut = sum(len(ids) > longest for ids in self.tokenizer(prefixed)["input_ids"])
        tokens = self.tokenizer(prefixed, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        with precision("float32", self.device.type):
            pooled = self.model.text_model(**tokens.to(self.device)).pooler_output
            return self.model.text_projection(pooled), cut

    def provenance(self) -> dict:
        facts = {"extractor": self.name, "sha256": self.sha256, "resize": self.preprocessing, "dtype": "float32"}
        return {**facts, "prefix": self.prefix.strip() or None}


def cosines(one: Tensor, two: Tensor) -> Tensor:
    """Cosines of (N, d) with (N, d), or with each of (N, k, d); float64, as differences of cosines are small."""
    one, two = (normalize(side.double(), dim=-1) for side in (one, two))
    return (one * two).sum(-1) if two.ndim == 2 else (one[:, None] * two).sum(-1)


def clip_score(images: Tensor, texts: Tensor) -> Tensor:
    """(N,) CLIPScore of embeddings (N, d) and (N, d)."""
    return WEIGHT * cosines(images, texts).clamp(min=0)


def ref_clip_score(images: Tensor, texts: Tensor, references: Tensor) -> Tensor:
    """(N,) RefCLIPScore; references (N, k, d), rows of zeros where an item has fewer than k."""
    score = clip_score(images, texts)
    nearest = cosines(texts, references).clamp(min=0).amax(1)
    return torch.where(score + nearest > 0, 2 * score * nearest / (score + nearest), 0.0)


def own_text_first(images: Tensor, candidates: Tensor) -> Tensor:
    """(N,) 1.0 where candidate 0, the own text, has the greatest cosine of (N, k, d); a tie is shared out evenly."""
    found = cosines(images, candidates)
    best = found == found.amax(1, keepdim=True)
    return best[:, 0].double() / best.sum(1)


class ClipMetric(SegmentMetric):
    """Mean over images of a measure of embeddings; with an `encoder` folder also of images and texts."""

    unit = "images"
    higher_is_better = True

    def __init__(self, encoder: ClipEncoder | str | Path | None = None, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder if encoder is None or isinstance(encoder, nn.Module) else ClipEncoder(encoder)
        self.add_rows("cut")

    def image_embeddings(self, images: Any) -> Tensor:
        """(N, 3, H, W), or what `batch_of` takes, -> (N, d) by the encoder; embeddings (N, d) stay as they are."""
        images = batch_of(images)
        return images if images.ndim == 2 else self._encoder().images(images)

    def text_embeddings(self, texts: Tensor | Sequence[str]) -> Tensor:
        """N texts -> (N, d) by the encoder, with a note of how many were cut; embeddings (N, d) stay as they are."""
        if isinstance(texts, Tensor):
            return texts
        embeddings, cut = self._encoder().texts(texts)
        self.append("cut", torch.tensor([[cut]]))
        return embeddings

    def nested_embeddings(self, texts: Tensor | Sequence[Sequence[str]]) -> Tensor:
        """(N, k, d) of lists of texts, zeros where a list is shorter than the longest."""
        if isinstance(texts, Tensor):
            return texts
        require(all(texts), "an image has no texts to compare with; give at least one")
        flat = self.text_embeddings([text for own in texts for text in own])
        return nn.utils.rnn.pad_sequence(flat.split([len(own) for own in texts]), batch_first=True)

    def _encoder(self) -> ClipEncoder:
        if self.encoder is None:
            raise InputError(f"{self.name}: images or texts without a model; pass the folder of a CLIP, or embeddings")
        return self.encoder

    def score(self, total: Tensor) -> float:
        return mean_score(total)

    def provenance(self) -> dict:
        return {"extractor": "embeddings"} if self.encoder is None else self.encoder.provenance()

    def cautions(self, rows: Tensor) -> list[str]:
        cut = int(self.rows("cut").sum())
        return [f"{cut} texts exceed the model's length and were cut before their end-of-text token"] if cut else []


class CLIPScore(ClipMetric):
    """`update(images, texts)`: images or embeddings (N, d); texts or embeddings (N, d)."""

    name = "clip_score"
    takes = "image and text embeddings"

    def statistics(self, images: Tensor, texts: Tensor | Sequence[str]) -> Tensor:
        return mean_rows(clip_score(*check_matched(self.image_embeddings(images), self.text_embeddings(texts))))


class RefCLIPScore(ClipMetric):
    """`update(images, texts, references)`: references are lists of texts, or embeddings (N, k, d)."""

    name = "ref_clip_score"
    takes = "image, text and reference embeddings"

    def statistics(self, images: Tensor, texts, references) -> Tensor:
        images, texts = check_matched(self.image_embeddings(images), self.text_embeddings(texts))
        if not len(images):
            return mean_rows(images.new_zeros(0))
        return mean_rows(ref_clip_score(images, texts, self.nested_embeddings(references)))


class RPrecision(ClipMetric):
    """`update(images, candidates)`: for each image its own text first, then texts of others (99, in the paper), as
    lists of one length, or embeddings (N, k, d)."""

    name = "r_precision"
    takes = "image and candidate embeddings"

    def __init__(self, encoder: ClipEncoder | str | Path | None = None, **kwargs):
        super().__init__(encoder, **kwargs)
        self.add_rows("candidates")

    def statistics(self, images: Tensor, candidates) -> Tensor:
        images = self.image_embeddings(images)
        if not len(images):
            return mean_rows(images.new_zeros(0))
        if not isinstance(candidates, Tensor) and len({len(own) for own in candidates}) > 1:
            raise InputError("r_precision: images have different numbers of candidates; give every image as many")
        nested = not isinstance(candidates, Tensor) or candidates.ndim == 3
        require(nested, "r_precision: candidates must be lists of texts, or embeddings (N, k, d)")
        self.append("candidates", torch.tensor([[len(candidates[0])]]))
        return mean_rows(own_text_first(*check_matched(images, self.nested_embeddings(candidates))))

    def provenance(self) -> dict:
        """The number of candidates too: the fewer, the higher the score."""
        sizes = sorted({int(size) for size in self.rows("candidates").flatten().tolist()})
        return {**super().provenance(), "candidates": "+".join(map(str, sizes))}


def check_matched(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Both, where there are as many of one as of the other, in one number of dimensions, and all are numbers."""
    require(len(images) == len(texts), f"{len(images)} images against {len(texts)} texts; give one text for each image")
    ours, theirs = images.shape[-1], texts.shape[-1]
    require(ours == theirs, f"embeddings of images have {ours} dimensions, of texts {theirs}; use one model for both")
    finite = images.isfinite().all() and texts.isfinite().all()
    require(finite, "embeddings hold NaN or infinity; check the images and the model's dtype")
    return images, texts
