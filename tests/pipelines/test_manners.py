"""diffusers' manners: every scheduler, dtypes, offloading; spans of several sizes; backbones that are not causal."""

import copy

import diffusers
import pytest
import torch
from tiny import generator, model
from tiny_pipelines import CLOSE, PROMPTS, build, every_scheduler

from mot_gen.errors import InputError
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.pipelines.engine import Drawing, Guidance, KnownPicture, Stream, draw
from mot_gen.pipelines.text_generation import TextGenerationPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline


@every_scheduler
def test_schedulers_are_exchanged_by_their_config(pipeline, objective, scheduler):
    """A picture is the same alone and in a batch, also with noise on the way; schedulers differ."""
    pipe = pipeline(TextToImagePipeline, objective=objective)
    own = {"num_inference_steps": 5, "output_type": "latent"}
    before = pipe(PROMPTS, generator=[generator(1), generator(2)], **own).images
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    both = pipe(PROMPTS, generator=[generator(1), generator(2)], **own).images
    assert torch.isfinite(both).all()
    assert torch.equal(both, before) == (scheduler in ("FlowMatchEulerDiscreteScheduler", "DDPMScheduler"))
    for number, prompt in enumerate(PROMPTS):
        alone = pipe(prompt, generator=[generator(number + 1)], **own).images
        torch.testing.assert_close(alone[0], both[number], **CLOSE)


def test_half_precision_draws_about_the_same_picture(pipeline, noise):
    pipe = pipeline(TextToImagePipeline)
    options = {"latents": noise, "num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "pt"}
    want = pipe(PROMPTS, **options).images
    half = TextToImagePipeline(**copy.deepcopy(pipe.components)).to(torch.bfloat16)  # not the shared ones
    half.set_progress_bar_config(disable=True)
    assert half.model.dtype == torch.bfloat16
    torch.testing.assert_close(half(PROMPTS, **options).images, want, atol=0.05, rtol=0)
    assert len(TextGenerationPipeline(**half.components)(PROMPTS, max_new_tokens=4).texts) == 2


@pytest.mark.skipif(torch.accelerator.is_available(), reason="is about machines without a GPU")
def test_offloading_needs_a_gpu(pipeline):
    with pytest.raises(InputError, match="enable_model_cpu_offload: there is no GPU here"):
        pipeline(TextToImagePipeline).enable_model_cpu_offload()


def test_an_offloaded_model_is_fetched_before_it_reads(pipeline):
    pipe, fetched = pipeline(TextGenerationPipeline), []

    class Hook:
        def pre_forward(self, module):
            fetched.append(module)

    pipe.model._hf_hook = Hook()
    try:
        Stream(pipe.model, [[]], room=1)
    finally:
        del pipe.model._hf_hook
    assert fetched == [pipe.model]


@torch.inference_mode()
@pytest.mark.parametrize("objective", ["flow", "diffusion"])
def test_pictures_of_several_sizes_are_drawn_in_one_batch(objective):
    """Each as if it were alone: guided, rescaled, begun from a picture, and written to the cache for what follows."""
    parts = build(objective=objective)
    if objective == "diffusion":  # DDPM's noise on the way is drawn for the padded length
        parts["scheduler"] = diffusers.DDIMScheduler.from_config(parts["scheduler"].config)
    net, grids = parts["model"], [(2, 3), (1, 4), (3, 3)]
    prompts = [parts["text_tokenizer"].encode_batch([text]) for text in ("a", "a seven", "a nine")]
    channels, words = net.modalities[1].channels, torch.tensor([5, 9])

    def drawn(rows):
        guidance = Guidance(2.5, rescale=0.5)
        generators = [generator(row) for row in rows]
        drawing = Drawing(parts["scheduler"], 4, guidance, generators)
        longest = max(r * c for r, c in (grids[row] for row in rows))
        values = torch.zeros(len(rows), longest, channels)
        for place, row in enumerate(rows):
            n = grids[row][0] * grids[row][1]
            values[place, :n] = torch.randn(n, channels, generator=generator(row + 10))
        documents = [prompts[row] for row in rows] + [[]] * len(rows)
        stream = Stream(net, documents, room=20, opens=["image"] * len(documents))
        span = stream.open("image", [grids[row] for row in rows] * 2, torch.ones(len(documents), dtype=torch.bool))
        made = draw(span, drawing, known=KnownPicture(values, 0.8))
        span.close(made.repeat(2, 1, 1), torch.ones(len(documents), dtype=torch.bool))
        for word in words:
            stream.append(word.repeat(len(documents)), torch.ones(len(documents), dtype=torch.bool))
        return made, stream.hidden

    together, hidden = drawn([0, 1, 2])
    for row, (rows, columns) in enumerate(grids):
        (alone,), after = drawn([row])
        torch.testing.assert_close(together[row, : rows * columns], alone, **CLOSE)
        torch.testing.assert_close(hidden[row], after[0], **CLOSE)
    assert not together[1, 4:].any()


def test_a_backbone_that_is_not_causal_says_so_once_it_generates():
    parts = build()
    other = model(parts["model"].modalities, backbone={"kind": "moe4x"}, context=128)
    with pytest.warns(UserWarning, match="experts chose their tokens with a view of later ones"):
        pipe = MultimodalPipeline(**parts | {"model": other})
    pipe = TextGenerationPipeline(**pipe.components)
    both = pipe(PROMPTS, max_new_tokens=5).texts
    assert both == [pipe(prompt, max_new_tokens=5).texts[0] for prompt in PROMPTS]
