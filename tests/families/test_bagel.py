"""BAGEL against the published code: a tiny model in the published files, and what that code computed with it in fp32.

tests/families/data/bagel_tiny holds random weights, in the layout of ByteDance-Seed/BAGEL-7B-MoT without its
autoencoder (which is compared with diffusers' own conversion here), and arrays of the published code.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mot_gen.backbone.attention import Places, sees
from mot_gen.commands.main import main
from mot_gen.errors import InputError
from mot_gen.families import bagel
from mot_gen.families.shared import conversion, latent_diffusion
from mot_gen.families.shared.random_weights import published_shapes, random_tensors
from mot_gen.families.shared.siglip import siglip_name
from mot_gen.families.shared.table import Entry
from mot_gen.packing import document_length, pack
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.pipelines.image_to_image import ImageToImagePipeline
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.sequence import PADDING, Span
from mot_gen.tokenizers.image_latent import LatentImageTokenizer

DATA = Path(__file__).parent / "data" / "bagel_tiny"
GOLDEN = load_file(DATA / "golden.safetensors")
SETTINGS = json.loads((DATA / "golden.json").read_text())["settings"]


def far(found, name):
    """The largest difference from an array of the published code, as a part of its largest number."""
    want = GOLDEN[name].double()
    return ((found.detach().double() - want).abs().max() / want.abs().max()).item()


def autoencoder_like(widths, blocks, channels):
    """Random tensors of an autoencoder in published names."""
    config = latent_diffusion.autoencoder_config(widths, blocks, channels, 2, 8)
    module = conversion.outline(LatentImageTokenizer, config)
    shapes = published_shapes(module, [Entry(*names) for names in latent_diffusion.vae_names(module)])
    return random_tensors(shapes, torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "bagel"
    shutil.copytree(DATA, folder, ignore=shutil.ignore_patterns("golden*"))
    save_file(autoencoder_like([32] * 4, 1, 16), folder / "ae.safetensors")
    return folder


@pytest.fixture(scope="module")
def ours(published, tmp_path_factory):
    """The folder that `mot-gen convert` makes of it."""
    out = tmp_path_factory.mktemp("ours") / "bagel"
    assert main(["convert", str(published), str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def pipe(ours):
    return MultimodalPipeline.from_pretrained(ours)


def over(pipe, cls):
    made = cls(**pipe.components)
    made.set_progress_bar_config(disable=True)
    return made


def picture(name):
    return Image.fromarray(GOLDEN[name].numpy())


# ---------------------------------------------------------------- parts


def test_pictures_are_resized_and_read_as_published(pipe):
    seen = pipe.image_tokenizer.pixels_of(picture("parts.picture"))
    assert torch.equal((seen * 255).round().byte().permute(1, 2, 0), GOLDEN["parts.resized"])
    span = pipe.sight_tokenizer.encode(Image.fromarray(GOLDEN["parts.resized"].numpy()))
    assert far(span.values, "parts.vit_features") < 2e-5
    tokens, _ = pipe.model.patch_layers["sight"].encode(pack([[span]], pipe.model.modalities, 60).latents["sight"])
    assert far(tokens, "parts.vit_tokens") < 2e-5


def test_texts_have_the_published_ids(pipe):
    for name in ("t2i", "edit"):
        ids = pipe.text_tokenizer.encode(SETTINGS[name]["prompt"]).values
        assert torch.equal(ids, GOLDEN[f"{name}.prompt_ids"])


@pytest.mark.parametrize("widths, blocks", [([32, 64], 1), ([32, 64, 64, 64], 2)])
def test_autoencoders_are_as_diffusers_converts_them(widths, blocks):
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    tensors = autoencoder_like(widths, blocks, 4)
    module = conversion.outline(LatentImageTokenizer, latent_diffusion.autoencoder_config(widths, blocks, 4, 2, 8))
    want = convert_ldm_vae_checkpoint(dict(tensors), {**module.config.vae_config, "layers_per_block": blocks})
    for mine, theirs, how in latent_diffusion.vae_names(module):
        value = tensors[theirs]
        for step in how:
            value = step.forward(value)
        assert torch.equal(value, want.pop(mine.removeprefix("vae.")))
    assert not want


# ---------------------------------------------------------------- training


def training_batch(pipe):
    """The document of the published training pass, noised as there, and the features' graph."""
    settings, text = SETTINGS["train"], pipe.text_tokenizer
    seen = GOLDEN["train.vit_picture"].permute(2, 0, 1)[None] / 255 * 2 - 1
    features = pipe.sight_tokenizer.tokens(seen)[0]
    clean, target = (_patches(GOLDEN[f"train.{name}_latent"]) for name in ("clean", "target"))
    prompt, answer = text.encode(settings["text"]), text.encode(settings["answer"])
    sample = [
        Span("text", prompt.values, learned=False),
        Span("sight", features, (3, 4), learned=False),
        Span("image", clean, (3, 4), learned=False),
        Span("image", target, (3, 4), learned=True),
        Span("text", answer.values),
    ]
    batch = pack([sample], pipe.model.modalities, document_length(sample, pipe.model.modalities))
    time, image = GOLDEN["train.time"], batch.latents["image"]
    image.time = torch.stack([torch.zeros(()), time])
    noised = pipe.model.objectives["image"].add_noise(target, GOLDEN["train.noise"], time)
    image.values = torch.cat([clean, noised])
    return batch


def _patches(latent):
    from mot_gen.patches import patchify

    return patchify(latent, 2)[0]


def hidden_of(pipe, batch):
    return pipe.model.backbone(pipe.model.embed(batch)[0], batch.layout)[0]


def test_a_training_pass_is_the_published_one(pipe):
    model, batch = pipe.model, training_batch(pipe)
    model.zero_grad()
    pipe.sight_tokenizer.zero_grad()
    assert torch.equal(batch.ids[0][GOLDEN["train.text_places"]], GOLDEN["train.text_token_ids"])
    assert torch.equal(batch.layout.position[0, :, 0], GOLDEN["train.positions"])
    places = Places.of(batch.layout, torch.tensor([m.bidirectional for m in model.modalities]))
    assert torch.equal(sees(places[:, :, None], places[:, None])[0], GOLDEN["train.mask"].bool())
    assert far(hidden_of(pipe, batch), "train.hidden") < 2e-5
    output = model(batch)
    assert torch.equal(batch.target_slots, GOLDEN["train.ce_places"])
    assert torch.equal(batch.target_ids, GOLDEN["train.ce_labels"])
    cross_entropy = torch.nn.functional.cross_entropy(output.logits, batch.target_ids, reduction="none")
    assert far(cross_entropy, "train.cross_entropy") < 2e-5
    errors = (output.latents["image"][12:] - GOLDEN["train.velocity_target"]).square()
    assert far(errors, "train.squared_error") < 2e-5
    targets = {"image": torch.cat([torch.zeros(12, 64), GOLDEN["train.velocity_target"]])}
    losses, masks = model.losses(batch, output, targets), model.loss_masks(batch)
    loss = sum((losses[name] * masks[name]).sum() / masks[name].sum() for name in losses)
    assert far(loss, "train.loss") < 2e-5
    loss.backward()
    check_gradients(pipe)


def check_gradients(pipe):
    """Gradients of the published tensors, by the table read backwards."""
    wanted = [name.removeprefix("train.grad.") for name in GOLDEN if name.startswith("train.grad.")]
    table = {entry.theirs: (pipe.model, entry) for entry in bagel._model_table(pipe.model)}
    for name, _ in pipe.sight_tokenizer.named_parameters():
        theirs = siglip_name(name, "vit_model.vision_model.")
        table[theirs] = (pipe.sight_tokenizer, Entry(name, theirs))
    assert len(wanted) == 9
    for name in wanted:
        module, entry = table[name]
        gradient = entry.back(module.get_parameter(entry.ours).grad)
        assert far(gradient, f"train.grad.{name}") < 2e-5, name


def alone_forgotten(layout):
    layout.alone = None


def bounds_causal(layout):
    bound = (layout.modality == 0) & (layout.block != PADDING)
    layout.block = layout.block.masked_fill(bound, PADDING)


def positions_count_up(layout):
    layout.position[..., 0] = torch.arange(layout.shape[1])


def bounds_in_the_other_tower(layout):
    layout.modality = layout.modality.masked_fill((layout.modality == 0) & (layout.block != PADDING), 1)


@pytest.mark.parametrize("left_out", [alone_forgotten, bounds_causal, positions_count_up, bounds_in_the_other_tower])
@torch.no_grad()
def test_what_the_layout_says_shows(pipe, left_out):
    batch = training_batch(pipe)
    left_out(batch.layout)
    assert far(hidden_of(pipe, batch), "train.hidden") > 0.05


# ---------------------------------------------------------------- drawing


def steps_of(call, *inputs, **options):
    """The latents after each step."""
    seen = []

    def note(pipe, number, timestep, given):
        seen.append(given["latents"][0].clone())
        return {}

    call(*inputs, output_type="latent", callback_on_step_end=note, **options)
    return torch.stack(seen)


@pytest.mark.parametrize(
    "name, given", [("plain", {"guidance_scale": 1.0}), ("guided", {}), ("channel", {"guidance_renorm": "channel"})]
)
def test_pictures_of_texts_are_drawn_as_published(pipe, name, given):
    size = {"height": 64, "width": 96, "num_inference_steps": 6, "latents": GOLDEN["t2i.noise"][None]}
    found = steps_of(over(pipe, TextToImagePipeline), SETTINGS["t2i"]["prompt"], **size, **given)
    assert far(found, f"t2i.{name}.latents") < 2e-5


def test_the_schedulers_own_times_are_others(pipe):
    made = over(pipe, TextToImagePipeline)
    made.register_to_config(sampling={**made.config.sampling, "sigmas": None})
    size = {"height": 64, "width": 96, "num_inference_steps": 6, "latents": GOLDEN["t2i.noise"][None]}
    assert far(steps_of(made, SETTINGS["t2i"]["prompt"], **size), "t2i.guided.latents") > 0.01


@pytest.mark.parametrize(
    "name, given",
    [
        ("plain", {"guidance_scale": 1.0, "image_guidance_scale": 1.0}),
        ("guided", {}),
        ("global", {"guidance_renorm": "global"}),
    ],
)
def test_pictures_are_edited_as_published(pipe, name, given, monkeypatch):
    def encoded(pixels):
        assert (pixels[0] / 2 + 0.5).mul(255).round().byte().permute(1, 2, 0).equal(GOLDEN["parts.resized"])
        return GOLDEN["parts.latent_tokens"][None]

    monkeypatch.setattr(pipe.image_tokenizer, "tokens", encoded)
    made = over(pipe, ImageToImagePipeline)
    options = {"num_inference_steps": 5, "latents": GOLDEN["edit.noise"][None], **given}
    found = steps_of(made, SETTINGS["edit"]["prompt"], picture("parts.picture"), **options)
    assert far(found, f"edit.{name}.latents") < 2e-5


# ---------------------------------------------------------------- reading


def test_questions_are_answered_as_published(pipe):
    scores = []

    def note(ids, logits):
        scores.append(logits[0].clone())
        return logits

    made, settings = over(pipe, ImageToTextPipeline), SETTINGS["understand"]
    seen = picture("understand.picture")
    assert pipe.image_tokenizer.size_for(seen) == tuple(GOLDEN["understand.resized"].shape[:2])
    (text,) = made(seen, settings["question"], max_new_tokens=12, logits_processor=[note]).texts
    assert text == settings["answer"]
    assert far(torch.stack(scores), "understand.logits") < 2e-5
    assert torch.equal(torch.stack(scores).argmax(-1), GOLDEN["understand.ids"])


# ---------------------------------------------------------------- commands, errors


def test_the_command_says_what_it_is_and_goes_back(ours, published, tmp_path, capsys):
    assert main(["info", str(ours)]) == 0
    said = capsys.readouterr().out
    assert "bagel" in said
    assert "Apache-2.0" in said
    assert "prompt -> image, image -> image, image -> text" in said
    assert main(["convert", str(ours), str(tmp_path / "back"), "--like", str(published)]) == 0
    for name in bagel.WEIGHTS:
        before, after = load_file(published / name), load_file(tmp_path / "back" / name)
        assert before.keys() == after.keys()
        assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_bad_input_is_one_line(pipe, published, tmp_path):
    drawing = over(pipe, TextToImagePipeline)
    with pytest.raises(InputError, match="height, width: this model draws"):
        drawing("a", height=144, width=64)
    with pytest.raises(InputError, match="guidance_renorm: 'globl' is not known; did you mean 'global'"):
        drawing("a", height=64, width=64, guidance_renorm="globl")
    shutil.copytree(published, tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    path.write_text(path.read_text().replace("<|vision_start|>", "<|nothing|>"))
    with (
        conversion.open_published(tmp_path / "other", bagel) as source,
        pytest.raises(InputError, match=r"has no special token <\|vision_start\|>; fetch it again"),
    ):
        bagel.parts(source)
