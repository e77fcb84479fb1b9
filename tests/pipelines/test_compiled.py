"""Compiled blocks: what pipelines make is the same, and further prompts make no further programs."""

import copy

import pytest
import torch

from mot_gen import ImageToTextPipeline, InterleavedPipeline, TextToImagePipeline

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture
def programs():
    """A backend of torch.compile that runs what it is given, and a list that grows with every program."""
    made = []

    def backend(graph, inputs):
        made.append(graph)
        return graph.forward

    torch._dynamo.reset()
    yield backend, made
    torch._dynamo.reset()


def compiled(pipe, backend):
    pipe = type(pipe)(**copy.deepcopy(pipe.components))  # not the shared ones
    pipe.set_progress_bar_config(disable=True)
    pipe.model.compile_repeated_blocks(backend=backend)
    return pipe


def drawn(pipe, prompts, noise, **options):
    return pipe(prompts, num_inference_steps=3, latents=noise[: len(prompts)], output_type="latent", **options).images


def test_pictures_of_compiled_blocks_are_the_same_and_no_prompt_is_compiled_for(pipeline, noise, programs):
    backend, made = programs
    eager = pipeline(TextToImagePipeline)
    pipe = compiled(eager, backend)
    torch.testing.assert_close(drawn(pipe, ["a seven"], noise), drawn(eager, ["a seven"], noise), **CLOSE)
    first = len(made)
    assert first > 0
    for prompt in ("a", "a handwritten seven", "a nine and a seven, by hand"):
        torch.testing.assert_close(drawn(pipe, [prompt], noise), drawn(eager, [prompt], noise), **CLOSE)
    assert len(made) == first


def test_rows_of_different_lengths_and_guidance_are_the_same(pipeline, noise, programs):
    backend, made = programs
    eager = pipeline(TextToImagePipeline)
    pipe, prompts = compiled(eager, backend), ["a seven", "a handwritten nine, by hand"]
    for scale in (3.0, 1.0, 3.0):
        found, wanted = (drawn(p, prompts, noise, guidance_scale=scale) for p in (pipe, eager))
        torch.testing.assert_close(found, wanted, **CLOSE)
    seen = len(made)
    drawn(pipe, ["a", "a nine and a seven, by hand"], noise, guidance_scale=3.0)
    assert len(made) == seen


def test_texts_and_documents_of_compiled_blocks_are_the_same(pipeline, programs):
    backend, made = programs
    captioning, writing = pipeline(ImageToTextPipeline), pipeline(InterleavedPipeline)
    picture = torch.rand(1, 4, 6, generator=torch.Generator().manual_seed(0))
    quick = compiled(captioning, backend)
    assert quick(picture, max_new_tokens=12).texts == captioning(picture, max_new_tokens=12).texts
    seen = len(made)
    assert quick(picture, max_new_tokens=24).texts == captioning(picture, max_new_tokens=24).texts
    assert len(made) == seen > 0
    both = []
    for pipe in (writing, compiled(writing, backend)):
        options = {"max_images": 1, "num_inference_steps": 2, "output_type": "pt"}
        (document,) = pipe("a seven", generator=torch.Generator().manual_seed(1), **options).documents
        both.append([part if isinstance(part, str) else part.round(decimals=3) for part in document])
    assert str(both[0]) == str(both[1])
