"""JanusFlow against the published code: a tiny model in the published files, and what that code computed with it.

tests/families/data/janusflow_tiny holds random weights in the layout of deepseek-ai/JanusFlow-1.3B and arrays of the
published code. Its autoencoder is made here, in diffusers' own layout, in which it is loaded as it is.
"""

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from both import assert_same, on_both
from comparing import Noted, converted, far, over
from PIL import Image
from safetensors.torch import load_file

from mot_gen.packing import pack
from mot_gen.patches import patchify
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline

DATA = Path(__file__).parent / "data" / "janusflow_tiny"
GOLDEN = load_file(DATA / "golden.safetensors")
SETTINGS = json.loads((DATA / "golden.json").read_text())["settings"]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("janusflow")
    shutil.copytree(DATA, folder / "published", ignore=shutil.ignore_patterns("golden*"))
    config = diffusers.AutoencoderKL.load_config(folder / "published" / "vae")
    diffusers.AutoencoderKL.from_config(config).save_pretrained(folder / "published" / "vae")
    return converted(folder / "published", folder / "ours")


def tokens_of(latents):
    return patchify(latents, 2)[0]


def latents_of(pipe):
    """The fixture's noise at its time, as a batch has it."""
    span = pipe.image_tokenizer._checked  # the grid is that of the fixture's pictures
    del span
    from mot_gen.sequence import Latents

    values = tokens_of(GOLDEN["t2i.noise"][None])[0]
    time = 1 - GOLDEN["parts.gen_time"][None] / 1000
    ones = torch.zeros(len(values), dtype=torch.long)
    return Latents(values, torch.arange(len(values)), ones, torch.ones(1).bool(), torch.ones(1).bool(), [(6, 6)], time)


@torch.no_grad()
def test_latents_enter_and_leave_as_published(pipe):
    layers, latents = pipe.model.patch_layers["image"], latents_of(pipe)
    assert far(layers.time_tokens(latents)[0], GOLDEN["parts.gen_time_embedding"]) < 1e-5
    tokens, memory = layers.encode(latents)
    assert far(tokens, GOLDEN["parts.gen_tokens"]) < 1e-5
    assert far(memory[0][1][0], GOLDEN["parts.gen_encoded"]) < 1e-5
    velocity = -layers.decode(GOLDEN["parts.gen_hidden"], latents, memory)
    assert far(velocity, tokens_of(GOLDEN["parts.gen_velocity"][None])[0]) < 2e-5


def steps_of(made, **options):
    seen = []

    def note(pipe, number, timestep, given):
        seen.append(given["latents"][0].clone())
        return {}

    size = {"num_inference_steps": SETTINGS["t2i"]["steps"], "latents": tokens_of(GOLDEN["t2i.noise"][None])}
    made(SETTINGS["t2i"]["prompt"], output_type="latent", callback_on_step_end=note, **size, **options)
    return torch.stack(seen)


@pytest.mark.parametrize("name", ["plain", "guided"])
def test_pictures_are_drawn_as_published(pipe, name):
    found = steps_of(over(pipe, TextToImagePipeline), guidance_scale=SETTINGS["t2i"][name]["guidance"])
    assert far(found, tokens_of(GOLDEN[f"t2i.{name}.latents"])) < 2e-5


def test_an_unconditional_prompt_closed_up_is_another(pipe):
    found = steps_of(over(pipe, TextToImagePipeline, unconditional="empty"), guidance_scale=2.0)
    assert far(found, tokens_of(GOLDEN["t2i.guided.latents"])) > 0.005


def seen(name):
    return Image.fromarray(GOLDEN[name].numpy())


@torch.no_grad()
def test_pictures_are_filled_up_and_read_as_published(pipe):
    picture, sight = seen("understand.picture"), pipe.sight_tokenizer
    assert far(sight.pixels_of(picture) * 2 - 1, GOLDEN["understand.pixels"]) < 0.02  # by PIL, not by torchvision
    features = sight.tokens(GOLDEN["understand.pixels"][None])[0]
    assert far(features, GOLDEN["understand.features"]) < 1e-5


@torch.no_grad()
def test_questions_are_answered_as_published(pipe, monkeypatch):
    monkeypatch.setattr(pipe.sight_tokenizer, "pixels_of", lambda raw: GOLDEN["understand.pixels"] / 2 + 0.5)
    note = Noted()
    made = over(pipe, ImageToTextPipeline)
    picture, settings = seen("understand.picture"), SETTINGS["understand"]
    (text,) = made(picture, settings["question"], max_new_tokens=12, logits_processor=[note]).texts
    assert text == settings["answer"]
    assert far(note.scores[:, :400], GOLDEN["understand.logits"]) < 2e-5


@torch.no_grad()
def test_the_sequence_is_embedded_as_published(pipe, monkeypatch):
    """At the token that begins a picture stands an embedding of its own."""
    monkeypatch.setattr(pipe.sight_tokenizer, "pixels_of", lambda raw: GOLDEN["understand.pixels"] / 2 + 0.5)
    made = over(pipe, ImageToTextPipeline)
    spans = made._message(SETTINGS["understand"]["question"], made.seen([seen("understand.picture")], drawn=False)[0])
    want = GOLDEN["understand.embeds"]
    batch = pack([spans], pipe.model.modalities, len(want) + 1)
    found = pipe.model.embed(_clean(batch))[0][0, : len(want)]
    assert torch.equal(batch.ids[0, : len(want)].clamp_min(1), GOLDEN["understand.text_ids"].where(
        batch.layout.modality[0, : len(want)] == 0, torch.tensor(1)))  # fmt: skip
    assert far(found, want) < 1e-5


def test_pictures_and_answers_are_the_same_on_a_device(pipe):
    settings = SETTINGS["t2i"], SETTINGS["understand"]

    def drawn(made):
        options = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "latent"}
        return made(settings[0]["prompt"], generator=torch.Generator().manual_seed(0), **options).images.cpu()

    def answered(made):
        return made(seen("understand.picture"), settings[1]["question"], max_new_tokens=3).texts

    for cls, call in ((TextToImagePipeline, drawn), (ImageToTextPipeline, answered)):
        assert_same(*on_both(cls, over(pipe, cls).components, call))


def _clean(batch):
    for latents in batch.latents.values():
        latents.time = torch.zeros(len(latents.grids))
    return batch
