"""How well a picture shows a text, as a model that answers questions about pictures sees it: VQAScore and VqaModel.

VQAScore (Lin et al. 2024) is the probability of "Yes" as the answer to 'Does this figure show "TEXT"? Please answer yes
or no.' Any model serves: a folder of a transformers image-to-text model, or a function of one's own

    answer(image (3, H, W) uint8, question, words) -> probabilities of these words as the answer, one each
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mot_gen.errors import InputError, require
from mot_gen.eval.extras import facts_of, find_named
from mot_gen.eval.images.batches import batch_of
from mot_gen.eval.images.extractors import precision, weights_sha256
from mot_gen.eval.images.inputs import to_uint8
from mot_gen.eval.text.segments import SegmentMetric, mean_rows, mean_score
from mot_gen.eval.transformers_folders import network_of, processor_of

QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
ANSWER = "Yes"

Answer = Callable[[Tensor, str, Sequence[str]], Sequence[float]]


class VqaModel(nn.Module):
    """A transformers image-to-text model and its processor from a local folder (LLaVA, BLIP, GIT, ...).

    A processor with a chat template is asked by it, others by the bare question. The probability of an answer is the
    product over its tokens; the end of the text is not part of it.
    """

    def __init__(self, folder: str | Path):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        super().__init__()
        self.model = network_of(
            AutoModelForImageTextToText, folder, "save an image-to-text model and its processor there"
        )
        self.processor = processor_of(AutoProcessor, folder)
        self.name, self.sha256 = Path(folder).name, weights_sha256(self.model)
        self.requires_grad_(False)

    def forward(self, image: Tensor, question: str, words: Sequence[str]) -> list[float]:
        """Probabilities of each of `words` as the answer."""
        return [self._probability(image, question, word) for word in words]

    @torch.no_grad()
    def _probability(self, image: Tensor, question: str, word: str) -> float:
        prepared = self.processor(images=image, text=self._prompt(question), return_tensors="pt")
        prepared = prepared.to(self.model.device)
        asked = prepared["input_ids"]
        answer = self.processor.tokenizer(word, add_special_tokens=False, return_tensors="pt")["input_ids"].to(asked)
        prepared["input_ids"] = torch.cat([asked, answer], 1)
        if "attention_mask" in prepared:
            prepared["attention_mask"] = torch.ones_like(prepared["input_ids"])
        with precision("float32", self.model.device.type):
            logits = self.model(**prepared).logits
        # Some models put the picture's own places before those of the text, so places are counted from the end.
        log_probabilities = logits[0, -answer.shape[1] - 1 : -1].double().log_softmax(-1)
        return log_probabilities.gather(1, answer[0, :, None]).sum().exp().item()

    def _prompt(self, question: str) -> str:
        if not getattr(self.processor, "chat_template", None):
            return question
        content: list[dict[str, Any]] = [{"type": "image"}, {"type": "text", "text": question}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def provenance(self) -> dict[str, str]:
        return {"extractor": self.name, "sha256": self.sha256, "dtype": "float32"}


def vqa_model(model: Answer | str | Path | None) -> Answer | None:
    """The model of a folder, or the function of "package.module:NAME"; a function, or None, as it is."""
    if not isinstance(model, (str, Path)):
        return model
    if ":" in str(model) and not Path(model).exists():
        return find_named(str(model), "vqa model")
    return VqaModel(model)


def vqa_facts(model: Any) -> dict[str, str]:
    """What is known of a model, for signatures."""
    return facts_of(model, "extractor")


class VQAScore(SegmentMetric):
    """`update(images, texts)`: images (N, 3, H, W) with a `model`, or probabilities (N,) that were found elsewhere.

    model: a folder, a VqaModel, or a function (see the module).
    """

    name = "vqa_score"
    unit = "images"
    takes = "probabilities and texts"
    higher_is_better = True

    def __init__(self, model: Answer | str | Path | None = None, **kwargs):
        super().__init__(**kwargs)
        self.model = vqa_model(model)

    def statistics(self, images: Any, texts: Sequence[str]) -> Tensor:
        if len(images) != len(texts):
            raise InputError(f"{len(images)} images against {len(texts)} texts; give one text for each image")
        images = batch_of(images)
        if images.ndim == 1:
            require(((images >= 0) & (images <= 1)).all(), "vqa_score: probabilities must lie in [0, 1]")
            return mean_rows(images)
        if self.model is None:
            raise InputError("vqa_score: images without a model; pass the folder of one, a function, or probabilities")
        found = [self.model(image, QUESTION.format(text), [ANSWER])[0] for image, text in zip(to_uint8(images), texts)]
        return mean_rows(torch.tensor(found, dtype=torch.float64))

    def score(self, total: Tensor) -> float:
        return mean_score(total)

    def provenance(self) -> dict:
        return {"extractor": "probabilities"} if self.model is None else vqa_facts(self.model)
