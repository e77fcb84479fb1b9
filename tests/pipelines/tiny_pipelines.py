"""Tiny pipelines, and what the tests ask of them.

build makes the components of a pipeline over a tiny untrained model, for one of the KINDS of image tokenizers.
leaning_to makes a pipeline write one token rather than any other, and full_hidden is what its model sees without a
cache.
"""

import copy

import pytest
import torch
from tiny import clean, generator, model
from tokenizer_examples import EXAMPLES

from mot_gen.packing import pack_rows
from mot_gen.sequence import Modality
from mot_gen.tokenizers.image_patch import PatchImageTokenizer
from mot_gen.tokenizers.text import TextTokenizer

KINDS = ["PatchImageTokenizer", "LatentImageTokenizer", "VQImageTokenizer"]
CLOSE = {"atol": 1e-4, "rtol": 1e-3}
PICTURE = torch.rand(3, 4, 6, generator=generator(0))
PROMPTS = ["a seven", "a handwritten nine and a seven"]
SCHEDULERS = [
    ("flow", "FlowMatchEulerDiscreteScheduler"),
    ("flow", "FlowMatchHeunDiscreteScheduler"),
    ("diffusion", "DDPMScheduler"),
    ("diffusion", "DDIMScheduler"),
    ("diffusion", "DPMSolverMultistepScheduler"),
]
every_scheduler = pytest.mark.parametrize("objective, scheduler", SCHEDULERS, ids=[name for _, name in SCHEDULERS])


def build(kind: str = "PatchImageTokenizer", objective: str = "flow", context: int | None = 128) -> dict:
    """Text and pictures of this kind: patches of 4 x 6 pixels in a grid of 2 x 3, or the tokenizers' own examples."""
    text = TextTokenizer.train(["a handwritten seven and a nine"] * 3, 270)
    image = PatchImageTokenizer((4, 6), 2) if kind == "PatchImageTokenizer" else EXAMPLES[kind][0]()
    pictured = image.modality
    if objective == "masked":
        pictured = Modality(**vars(pictured) | {"objective": objective, "bidirectional": True})
    elif not pictured.discrete:
        pictured = Modality(**vars(pictured) | {"objective": objective})
    net = model([text.modality, pictured], context=context)
    scheduler = None if pictured.discrete else net.objectives["image"].scheduler()
    return {"model": net, "text_tokenizer": text, "image_tokenizer": image, "scheduler": scheduler}


def leaning_to(pipe, token, bias=1e4):
    """The same pipeline with a head that prefers one token."""
    model = copy.deepcopy(pipe.model)
    head = torch.nn.Linear(model.backbone.dim, model.vocabulary.size)
    head.weight = model.head.weight
    torch.nn.init.zeros_(head.bias).data[token(model.vocabulary)] = bias
    model.head = head
    made = type(pipe)(**pipe.components | {"model": model})
    made.set_progress_bar_config(disable=True)
    return made


def a_picture(vocabulary):
    return vocabulary.begin["image"]


@torch.no_grad()
def full_hidden(model, samples):
    """Hidden states of whole documents, one forward pass without a cache: (S, D) each, without the document's end."""
    length = max(2 + sum(len(s) + 2 * (s.modality != "text") for s in sample) for sample in samples)
    batch = clean(pack_rows([[sample] for sample in samples], model.modalities, length))
    hidden = model.backbone(model.embed(batch)[0], batch.layout)
    ends = (batch.ids == model.vocabulary.document_end).nonzero()[:, 1].tolist()
    return [h[:end] for h, end in zip(hidden, ends)]
