"""Guidance: its formula and its parts, by text and by image; where it acts; discrete pictures under it."""

from itertools import product

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from tiny import generator
from tiny_pipelines import CLOSE, PROMPTS, full_hidden

from mot_gen.errors import InputError
from mot_gen.pipelines.engine.guidance import Guidance
from mot_gen.pipelines.image_to_image import ImageToImagePipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.sequence import Span


def random(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed))


FULL, TEXTLESS, IMAGELESS = (random(3, 5, 2, seed=s) for s in range(3))


def test_two_guidances_are_bagels():
    """v = i + g_i (u + g_t (c - u) - i), with u without the text and i without the image."""
    guidance = Guidance(4.0, image_scale=1.5)
    assert guidance.branches == ("conditional", "unconditional", "without_image")
    want = IMAGELESS + 1.5 * (TEXTLESS + 4.0 * (FULL - TEXTLESS) - IMAGELESS)
    torch.testing.assert_close(guidance.combine(torch.cat([FULL, TEXTLESS, IMAGELESS])), want)


@pytest.mark.parametrize(
    "text, image, branches",
    [
        (1.0, 1.0, ["conditional"]),
        (0.0, 1.0, ["unconditional"]),
        (3.0, 0.0, ["without_image"]),
        (1.0, 2.0, ["conditional", "without_image"]),
        (0.0, 2.0, ["unconditional", "without_image"]),
    ],
)
def test_only_branches_that_count_are_computed(text, image, branches):
    given = {"conditional": FULL, "unconditional": TEXTLESS, "without_image": IMAGELESS}
    guidance = Guidance(text, image)
    assert list(guidance.branches) == branches
    by_text = TEXTLESS + text * (FULL - TEXTLESS)
    want = IMAGELESS + image * (by_text - IMAGELESS)
    torch.testing.assert_close(guidance.combine(torch.cat([given[name] for name in branches])), want)


@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_rescaling_is_diffusers_and_does_not_see_padding(rescale):
    guidance, both = Guidance(5.0, rescale=rescale), torch.cat([FULL, TEXTLESS])
    want = rescale_noise_cfg(TEXTLESS + 5.0 * (FULL - TEXTLESS), FULL, guidance_rescale=rescale)
    torch.testing.assert_close(guidance.combine(both), want)
    padded = torch.nn.functional.pad(both, (0, 0, 0, 4))
    torch.testing.assert_close(guidance.combine(padded, torch.tensor([5, 5, 5]))[:, :5], want)


@pytest.mark.parametrize(
    "fields, complaint",
    [
        ({"image_scale": -1.0}, "image_guidance_scale must be a number of at least 0"),
        ({"image_scale": float("nan")}, "image_guidance_scale"),
        ({"scale": "3"}, "guidance_scale must be a number"),
        ({"interval": (0.7, 0.2)}, "guidance_interval must be two times, 0 <= low <= high <= 1, got"),
        ({"interval": (0.0, float("nan"))}, "guidance_interval"),
        ({"interval": 0.5}, "guidance_interval"),
        ({"rescale": 1.5}, "guidance_rescale must be a number from 0 to 1"),
    ],
)
def test_bad_guidance_is_refused(fields, complaint):
    with pytest.raises(InputError, match=complaint):
        Guidance(**fields)


def test_guidance_acts_within_its_interval_alone(pipeline, noise, monkeypatch):
    """Outside of it the conditional branch alone is computed, and all times is none outside."""
    pipe = pipeline(TextToImagePipeline)
    rows, forward = [], pipe.model.backbone.forward
    monkeypatch.setattr(pipe.model.backbone, "forward", lambda x, *a: rows.append(len(x)) or forward(x, *a))

    def drawn(**options):
        del rows[:]
        options = {"num_inference_steps": 4, "guidance_scale": 3.0} | options
        return pipe(PROMPTS, latents=noise, output_type="latent", **options).images, rows[1:]  # after the prompt

    everywhere, passes = drawn()
    assert passes == [4] * 4
    assert torch.equal(drawn(guidance_interval=(0.0, 1.0))[0], everywhere)
    part, passes = drawn(guidance_interval=(0.3, 0.8))  # of 1, 0.67, 0.33 and 0
    assert sorted(passes) == [2, 2, 4, 4] and not torch.equal(part, everywhere)
    nowhere, passes = drawn(guidance_interval=(0.01, 0.01))
    assert passes == [2] * 4
    torch.testing.assert_close(nowhere, drawn(guidance_scale=1.0)[0], **CLOSE)


def test_rescaled_pictures_are_less_far_out(pipeline, noise):
    pipe = pipeline(TextToImagePipeline)
    options = {"latents": noise, "num_inference_steps": 3, "guidance_scale": 12.0, "output_type": "latent"}
    plain, rescaled = (pipe(PROMPTS, guidance_rescale=r, **options).images for r in (0.0, 1.0))
    assert rescaled.std() < plain.std()


# ---------------------------------------------------------------- discrete pictures


@torch.no_grad()
def greedy_choices(pipe, branches, guidance, drawn):
    """What guidance would choose at every place of a drawn picture, by one full pass over each branch."""
    model = pipe.model
    first, last = model.vocabulary.range("image")
    logits = []
    for document in branches:
        hidden = full_hidden(model, [[*document, Span("image", drawn)]])[0]
        logits.append(
            model.head(hidden[-len(drawn) - 2 : -2])[:, first:last]
        )  # at the begin token and all but the last
    return guidance.combine(torch.cat(logits)).argmax(-1)


@pytest.mark.parametrize("scale", [1.0, 0.0, 3.0])
def test_discrete_pictures_are_guided_by_their_logits(pipeline, scale):
    pipe, guidance = pipeline(TextToImagePipeline, "VQImageTokenizer"), Guidance(scale)
    drawn = pipe(PROMPTS, guidance_scale=scale, temperature=0.0, output_type="latent").images
    for prompt, got in zip(PROMPTS, drawn):
        branches = {"conditional": pipe.text_tokenizer.encode_batch([prompt]), "unconditional": []}
        assert torch.equal(got, greedy_choices(pipe, [branches[b] for b in guidance.branches], guidance, got))


def test_discrete_pictures_are_edited_under_both_guidances(pipeline):
    pipe = pipeline(ImageToImagePipeline, "VQImageTokenizer", context=256)
    height, width = pipe.image_tokenizer.config.image_size
    picture = torch.rand(3, height, width, generator=generator(0))
    options = {"guidance_scale": 2.0, "image_guidance_scale": 1.5, "temperature": 0.0, "output_type": "latent"}
    (got,) = pipe("a seven", picture, **options).images
    image, text = pipe.image_tokenizer.encode(picture), pipe.text_tokenizer.encode("a seven")
    assert torch.equal(got, greedy_choices(pipe, [[image, text], [image], [text]], Guidance(2.0, 1.5), got))


RENORM = {"guidance_renorm": "channel"}


def test_what_only_steps_have_is_refused_for_discrete_pictures(pipeline):
    pipe = pipeline(TextToImagePipeline, "VQImageTokenizer")
    for given in (
        {"latents": torch.zeros(1, 4, 4)},
        {"guidance_interval": (0.2, 0.8)},
        {"guidance_rescale": 0.5},
        RENORM,
    ):
        with pytest.raises(InputError, match=f"{next(iter(given))}: this checkpoint's pictures are discrete tokens"):
            pipe("a", **given)


def test_renorm_makes_no_result_longer_than_the_conditional_one():
    both = torch.cat([FULL, TEXTLESS])
    plain = Guidance(4.0).combine(both)
    for renorm, dims in (("global", (1, 2)), ("channel", (2,))):
        found = Guidance(4.0, renorm=renorm).combine(both)
        wanted, length = (x.square().sum(dims, keepdim=True).sqrt() for x in (FULL, plain))
        torch.testing.assert_close(found, plain * torch.clamp(wanted / length, max=1.0), rtol=1e-5, atol=1e-6)


def test_renorm_by_text_comes_before_the_guidance_by_image():
    found = Guidance(4.0, image_scale=2.0, renorm="text_channel").combine(torch.cat([FULL, TEXTLESS, IMAGELESS]))
    by_text = Guidance(4.0, renorm="channel").combine(torch.cat([FULL, TEXTLESS]))
    torch.testing.assert_close(found, IMAGELESS + 2.0 * (by_text - IMAGELESS))


def test_renorm_has_a_floor_and_needs_the_conditional_prediction():
    both = torch.cat([FULL, TEXTLESS])
    floored = Guidance(4.0, renorm="channel", renorm_min=1.0).combine(both)
    torch.testing.assert_close(floored, Guidance(4.0).combine(both))
    assert Guidance(0.0, renorm="global").branches == ("conditional", "unconditional")
    assert Guidance(1.0, renorm="global").branches == ("conditional",)


def test_the_interval_does_not_include_its_lower_time():
    guidance = Guidance(2.0, interval=(0.5, 1.0))
    assert not guidance.acts_at(0.5)
    assert guidance.acts_at(1.0)


OPTIONS = {
    "scale": (0.0, 1.0, 3.0),
    "image_scale": (0.0, 1.0, 2.0),
    "interval": ((0.0, 1.0), (0.2, 0.7)),
    "rescale": (0.0, 0.5),
    "renorm": (None, "global", "channel", "text_channel"),
}


def test_all_options_go_together():
    """Each combination computes the branches that it names, and is what the formulas say at the ends of the scales."""
    predicted = torch.randn(3, 2, 4, 5, generator=generator(0))
    named = dict(zip(("conditional", "unconditional", "without_image"), predicted))
    for values in product(*OPTIONS.values()):
        guidance = Guidance(**dict(zip(OPTIONS, values)))
        guided = guidance.combine(torch.cat([named[branch] for branch in guidance.branches]))
        assert guided.shape == predicted[0].shape and guided.isfinite().all()
        plain = guidance.renorm is None and not guidance.rescale
        if plain and guidance.image_scale == 0:
            assert torch.equal(guided, named["without_image"])
        if plain and guidance.image_scale == 1 and guidance.scale in (0, 1):
            assert torch.equal(guided, named["conditional" if guidance.scale else "unconditional"])
