"""Answers from given texts: the likeliest by whole forward passes, alone and in batches; what is refused."""

import pytest
import torch
from tiny import clean, generator
from tiny_pipelines import PICTURE, PROMPTS

from mot_gen.errors import InputError
from mot_gen.packing import pack_prompts
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.interleaved import InterleavedPipeline
from mot_gen.pipelines.text_generation import TextGenerationPipeline
from mot_gen.sequence import Span

CHOICES = ["a seven", "a seven and a nine", "nine", "a handwritten nine", "hand", "a", "seventeen", "even", "x y z"]


@torch.no_grad()
def log_likelihoods(pipe, document):
    """Of each of the texts after a document, with its end, by one forward pass over all of it."""
    net, found = pipe.model, []
    for text in CHOICES:
        ids = torch.cat([pipe.text_tokenizer.encode(text).values, torch.tensor([net.vocabulary.document_end])])
        batch, (length,) = pack_prompts([[*document, Span("text", ids[:-1])]], net.modalities)
        hidden = net.backbone(net.embed(clean(batch))[0], batch.layout)[0, : int(length)]
        scores = net.head(hidden[-len(ids) :]).log_softmax(-1)
        found.append(scores.gather(1, ids[:, None]).sum().item())
    return found


def test_the_likeliest_text_is_chosen_alone_and_in_a_batch(pipeline):
    pipe = pipeline(TextGenerationPipeline)
    prompts = [*PROMPTS, "a", "nine nine nine", "x"]
    wanted = []
    for prompt in prompts:
        scores = log_likelihoods(pipe, [pipe.text_tokenizer.encode(prompt)])
        wanted.append(CHOICES[max(range(len(CHOICES)), key=scores.__getitem__)])
    assert pipe(prompts, choices=CHOICES).texts == wanted
    assert [pipe(prompt, choices=CHOICES).texts[0] for prompt in prompts] == wanted


def test_pictures_are_told_apart_by_choices(pipeline):
    """Whatever the model would write by itself, and in the order of the pictures."""
    pipe = pipeline(ImageToTextPipeline)
    pictures = [PICTURE, torch.rand(3, 4, 6, generator=generator(5))]
    both = pipe(pictures, choices=CHOICES).texts
    assert set(both) <= set(CHOICES)
    assert both == [pipe(picture, choices=CHOICES).texts[0] for picture in pictures]
    assert pipe(pictures, choices=["only this"]).texts == ["only this"] * 2


def test_what_cannot_be_chosen_from_is_refused(pipeline):
    pipe = pipeline(TextGenerationPipeline)
    for choices in ([], "a", ["a", ""], [3]):
        with pytest.raises(InputError, match="choices must be a list of texts, none empty"):
            pipe("a", choices=choices)
    with pytest.raises(InputError, match="leave do_sample out"):
        pipe("a", choices=["a"], do_sample=True)
    with pytest.raises(InputError, match="exceed the 128"):
        pipe("a", choices=["seven " * 100])
    with pytest.raises(InputError, match="takes no 'choices'"):
        pipeline(InterleavedPipeline)(["a"], choices=["a"])
