"""Cosmos3 against diffusers' own pipeline, on a tiny random model: pictures drawn of texts."""

import pytest
import torch
from comparing import converted, far, over
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
from diffusers.models.transformers.transformer_cosmos3 import Cosmos3OmniTransformer
from diffusers.pipelines.cosmos.pipeline_cosmos3_omni import Cosmos3OmniPipeline
from transformers import PreTrainedTokenizerFast

from mot_gen.families import cosmos3
from mot_gen.patches import patchify
from mot_gen.pipelines.text_to_image import TextToImagePipeline

SIZE = {"height": 8, "width": 12, "num_inference_steps": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("cosmos3")
    cosmos3.tiny(found / "published")
    return found


@pytest.fixture(scope="module")
def theirs(folder):
    place = folder / "published"
    made = Cosmos3OmniPipeline(
        transformer=Cosmos3OmniTransformer.from_pretrained(place / "transformer", torch_dtype=torch.float32).eval(),
        text_tokenizer=PreTrainedTokenizerFast.from_pretrained(place / "text_tokenizer"),
        vae=AutoencoderKLWan.from_pretrained(place / "vae").eval(),
        scheduler=UniPCMultistepScheduler.from_pretrained(place / "scheduler"),
        enable_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def pipe(folder):
    return converted(folder / "published", folder / "ours")


def noise():
    return torch.randn(1, 4, 1, 4, 6, generator=torch.Generator().manual_seed(3))


def drawn_by(theirs, **options):
    with torch.no_grad():
        made = theirs("a red house.", num_frames=1, latents=noise(), output_type="latent", **SIZE, **options)
    return patchify(made.video[:, :, 0], 2)[0][0]


def drawn(pipe, **sampling):
    made = over(pipe, TextToImagePipeline, **sampling)
    given = patchify(noise()[:, :, 0], 2)[0]
    return made("a red house.", latents=given, output_type="latent", **SIZE).images[0]


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_pictures_are_drawn_as_published(theirs, pipe, scale):
    found = drawn(pipe, guidance_scale=scale)
    assert far(found, drawn_by(theirs, guidance_scale=scale)) < 1e-5


def test_a_negative_prompt_leads_away_as_published(theirs, pipe):
    want = drawn_by(theirs, negative_prompt="blurred")
    made = over(pipe, TextToImagePipeline)
    given = {"latents": patchify(noise()[:, :, 0], 2)[0], "output_type": "latent", **SIZE}
    assert far(made("a red house.", negative_prompt="blurred", **given).images[0], want) < 1e-5


@torch.no_grad()
def test_pictures_are_encoded_and_decoded_as_published(theirs, pipe):
    pixels = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1
    tokens = pipe.image_tokenizer.tokens(pixels)
    want = theirs._encode_video(pixels[:, :, None])
    assert far(tokens, patchify(want[:, :, 0], 2)[0]) < 1e-5
    stated = theirs.vae.config
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (stated.latents_mean, stated.latents_std))
    shown = theirs.vae.decode(want * std + mean).sample[:, :, 0]
    assert far(pipe.image_tokenizer.pixels(tokens, (2, 3)), shown) < 1e-5


def by_time_alone(model):
    """The rotary axes left out."""
    axes = [block.parts.mixer.rope_axes for block in model.backbone.blocks]
    for block in model.backbone.blocks:
        object.__setattr__(block.parts.mixer, "rope_axes", [0] * 6)
    return lambda: [object.__setattr__(b.parts.mixer, "rope_axes", a) for b, a in zip(model.backbone.blocks, axes)]


def without_margin(model):
    image = model.modalities[1]
    margin = image.margin
    object.__setattr__(image, "margin", 0)
    return lambda: object.__setattr__(image, "margin", margin)


def causal_generator(model):
    tables = (model.backbone.bidirectional, model.backbone.tables_on_host[1])
    for table in tables:
        table[1] = False
    return lambda: [table.__setitem__(1, True) for table in tables]


@pytest.mark.parametrize("left_out", [by_time_alone, without_margin, causal_generator])
def test_what_is_left_out_shows(theirs, pipe, left_out):
    back = left_out(pipe.model)
    found = drawn(pipe, guidance_scale=1.0)
    back()
    assert far(found, drawn_by(theirs, guidance_scale=1.0)) > 1e-3
