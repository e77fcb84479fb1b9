"""Pictures of masked tokens through the pipelines: passes, guidance, the cache, batches, what is read afterwards."""

import pytest
import torch
from tiny import generator, words
from tiny_pipelines import build

from mot_gen.errors import InputError
from mot_gen.packing import pack
from mot_gen.pipelines.engine.masked import MASKED, OpenTokens
from mot_gen.pipelines.engine.stream import Stream
from mot_gen.pipelines.image_to_image import ImageToImagePipeline
from mot_gen.pipelines.interleaved import InterleavedPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.sequence import Span
from mot_gen.training.build import outline_model
from mot_gen.training.trained_tokenizers import untrained_tokenizer


@pytest.fixture(scope="module")
def parts():
    return build("VQImageTokenizer", objective="masked", context=256)


def made(cls, parts):
    pipe = cls(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe(parts):
    return made(TextToImagePipeline, parts)


def ids(pipe, prompt="seven", seed=0, **options):
    return pipe(prompt, output_type="latent", generator=[generator(seed)], **options).images


@pytest.mark.parametrize("steps, passes", [(1, 1), (3, 3), (1000, None)])
def test_a_picture_takes_as_many_passes_as_asked_and_one_a_token_at_most(pipe, monkeypatch, steps, passes):
    calls, real = [], OpenTokens.__call__
    monkeypatch.setattr(OpenTokens, "__call__", lambda span, given: calls.append(given) or real(span, given))
    shown = []
    drawn = ids(pipe, num_inference_steps=steps, callback_on_step_end=lambda p, step, t, given: shown.append(given))
    tokens = drawn.shape[1]
    assert len(calls) == len(shown) == (passes or tokens)
    assert (calls[0] == MASKED).all() and (drawn >= 0).all()
    assert torch.equal(shown[-1]["latents"], drawn)


def test_guidance_bears_on_the_logits(pipe):
    """Scale 0 does not depend on the prompt, scale 1 does not on the negative prompt, others on both."""
    drawn = {}
    for scale in (0.0, 1.0, 4.0):
        for prompt, negative in (("seven", None), ("seven", "a nine"), ("a nine and a seven", None)):
            drawn[scale, prompt, negative] = ids(
                pipe, prompt, guidance_scale=scale, negative_prompt=negative, num_inference_steps=4
            )
    assert torch.equal(drawn[0.0, "seven", None], drawn[0.0, "a nine and a seven", None])
    assert torch.equal(drawn[1.0, "seven", None], drawn[1.0, "seven", "a nine"])
    assert not torch.equal(drawn[4.0, "seven", None], drawn[4.0, "seven", "a nine"])


def test_a_picture_does_not_depend_on_its_batch(pipe):
    both = pipe(["seven", "a nine and a seven"], num_inference_steps=3, generator=[generator(1), generator(2)],
                output_type="latent").images  # fmt: skip
    assert torch.equal(both[1:], ids(pipe, "a nine and a seven", 2, num_inference_steps=3))


def test_greedy_drawing_draws_no_random_number(parts):
    parts["model"].objectives["image"].__dict__["choice_temperature"] = 0.0
    try:
        pipe = made(TextToImagePipeline, parts)
        drawn = [ids(pipe, seed=seed, temperature=0.0, num_inference_steps=4) for seed in (0, 1)]
        assert torch.equal(*drawn)
    finally:
        parts["model"].objectives["image"].__dict__["choice_temperature"] = 1.0


def test_a_pass_over_the_cache_is_the_whole_sequences(parts):
    """Logits of a partly masked span after a prompt: by the stream, and by one forward pass over everything."""
    net, tokenizer = parts["model"], parts["image_tokenizer"]
    rows, columns = next(iter(tokenizer.grids.values()))
    n, vocabulary = rows * columns, net.vocabulary
    prompt, picture = words(4), torch.randint(net.modalities[1].vocab_size, (n,), generator=generator(3))
    hidden = torch.arange(n) % 3 == 0
    stream = Stream(net, [[prompt]], n + 4, opens=["image"])
    span = OpenTokens(stream, "image", [(rows, columns)], torch.tensor([True]))
    by_cache = span(torch.where(hidden, MASKED, picture)[None])
    batch = pack([[prompt, Span("image", picture, (rows, columns))]], net.modalities, n + 10)
    where = (batch.layout.modality[0] == 1).nonzero().flatten()
    batch.ids[0, where[hidden]] = vocabulary.mask["image"]
    first, end = vocabulary.range("image")
    whole = net.head(net.backbone(net.embed(batch)[0], batch.layout))[0, where, first:end]
    torch.testing.assert_close(by_cache[0], whole, atol=1e-5, rtol=1e-4)


def test_the_cache_keeps_the_picture_unmasked(parts):
    """What follows a drawn picture reads its ids, and not the masks of the passes before."""
    net, tokenizer = parts["model"], parts["image_tokenizer"]
    rows, columns = next(iter(tokenizer.grids.values()))
    n = rows * columns
    picture = torch.randint(net.modalities[1].vocab_size, (n,), generator=generator(3))
    stream = Stream(net, [[words(4)]], n + 4, opens=["image"])
    alive = torch.tensor([True])
    span = OpenTokens(stream, "image", [(rows, columns)], alive)
    span(torch.full((1, n), MASKED))
    span.close(picture[None], alive)
    batch = pack([[words(4), Span("image", picture, (rows, columns))]], net.modalities, n + 10)
    end = (batch.ids[0] == net.vocabulary.end["image"]).nonzero()[0, 0]
    whole = net.backbone(net.embed(batch)[0], batch.layout)[0, end]
    torch.testing.assert_close(stream.hidden[0], whole, atol=1e-5, rtol=1e-4)
    assert stream.time[0] == batch.layout.position[0, end, 0] + 1


def test_pictures_within_a_document(parts):
    pipe = made(InterleavedPipeline, parts)
    options = {"modality_order": ["text", "image", "text"], "max_new_tokens": 3, "num_inference_steps": 3}
    first, second = (
        pipe(["a nine"], generator=[generator(0)], output_type="latent", **options).documents[0] for _ in range(2)
    )
    pictures = [part for part in first if isinstance(part, torch.Tensor)]
    assert len(pictures) == 1 and (pictures[0] >= 0).all()
    assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(first, second))


def test_parts_of_a_picture_are_drawn_anew(parts):
    """What the mask leaves out keeps its tokens."""
    from PIL import Image

    pipe = made(ImageToImagePipeline, parts)
    height, width = next(iter(parts["image_tokenizer"].grids))
    mode = "L" if parts["image_tokenizer"].color_channels == 1 else "RGB"
    image = Image.new(mode, (width, height), 90)
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (0, 0, width, height // 2))
    own = parts["image_tokenizer"].encode(image).values
    options = {"mask_image": mask, "num_inference_steps": 2, "generator": [generator(0)], "output_type": "latent"}
    drawn = pipe("seven", image=image, **options).images[0]
    half = len(own) // 2
    assert torch.equal(drawn[half:], own[half:]) and not torch.equal(drawn[:half], own[:half])


def test_what_only_noise_has_is_refused(pipe):
    with pytest.raises(InputError, match="guidance_interval: this checkpoint's pictures are discrete tokens"):
        ids(pipe, guidance_interval=(0.2, 0.8))
    with pytest.raises(InputError, match="latents: this checkpoint's pictures are discrete"):
        ids(pipe, latents=torch.zeros(1, 4, 4))


def test_tokens_without_a_known_number_are_refused():
    from mot_gen.recipes.recipe import load_recipe

    recipe = load_recipe("show-o", ["objectives.text.kind=masked"])
    text = type("T", (), {"modality": build()["text_tokenizer"].modality})()
    with pytest.raises(
        InputError, match=r"objectives.text.kind: masked needs spans of a known size; give next_token, or say"
    ):
        outline_model(recipe, {"text": text, "image": untrained_tokenizer(recipe.tokenizers["image"])})
