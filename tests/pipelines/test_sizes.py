"""Pictures of several sizes and aspect ratios: declared in a recipe, trained on records, drawn by height and width."""

import json

import pytest
import torch
from PIL import Image
from tiny import generator, model
from tiny_pipelines import CLOSE, build

from mot_gen.commands.main import main
from mot_gen.errors import InputError
from mot_gen.pipelines.image_to_image import ImageToImagePipeline
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.interleaved import InterleavedPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.tokenizers.image_patch import PatchImageTokenizer

SIZES = [(4, 4), (2, 8), (6, 4)]


@pytest.fixture(scope="module")
def parts():
    """A model of pictures of three sizes."""
    image, one = PatchImageTokenizer([list(size) for size in SIZES], 2), build()
    net = model([one["model"].modalities[0], image.modality], context=128)
    return one | {"model": net, "image_tokenizer": image}


@pytest.fixture
def pipe(parts):
    def make(cls):
        made = cls(**parts)
        made.set_progress_bar_config(disable=True)
        return made

    return make


def pictures():
    return [torch.rand(3, *size, generator=generator(number)) for number, size in enumerate(SIZES)]


@pytest.mark.parametrize("size", SIZES)
def test_a_prompt_is_drawn_in_each_size(pipe, size):
    draw, (height, width) = pipe(TextToImagePipeline), size
    options = {"num_inference_steps": 2, "guidance_scale": 2.0}
    images = draw("a seven", height=height, width=width, num_images_per_prompt=2, **options).images
    assert [image.size for image in images] == [(width, height)] * 2
    seen = []

    def show(pipe, step, timestep, given):
        seen.extend(image.size for image in pipe.decode_latents(given["latents"]))
        return {}

    draw("a seven", height=height, width=width, callback_on_step_end=show, **options)
    assert seen == [(width, height)] * 2


def test_one_side_is_enough_and_nothing_is_the_usual_size(pipe):
    draw = pipe(TextToImagePipeline)
    sizes = [draw("a", num_inference_steps=1, **side).images[0].size for side in ({}, {"height": 2}, {"width": 8})]
    assert sizes == [(4, 4), (8, 2), (8, 2)]


@pytest.mark.parametrize("asked", [{"height": 8}, {"height": 2, "width": 4}])
@pytest.mark.parametrize("cls", [TextToImagePipeline, InterleavedPipeline])
def test_another_size_is_refused_with_those_that_fit(pipe, cls, asked):
    with pytest.raises(InputError, match=r"height, width: this model draws 4 x 4, 2 x 8, 6 x 4, got "):
        pipe(cls)("a", **asked)
    with pytest.raises(InputError, match="width must be a positive number of pixels, got '8'"):
        pipe(cls)("a", width="8")


@pytest.mark.parametrize("how", [{}, {"strength": 0.7}, {"strength": 0.7, "image_guidance_scale": 1.5}])
def test_pictures_of_several_sizes_are_changed_in_one_batch_each_as_if_alone(pipe, how):
    change = pipe(ImageToImagePipeline)
    if "image_guidance_scale" in how:
        how = how | {"condition_on_image": True}
    options = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "pt"} | how
    together = change("a nine", pictures(), generator=[generator(n) for n in range(3)], **options).images
    for number, picture in enumerate(pictures()):
        (alone,) = change("a nine", picture, generator=[generator(number)], **options).images
        assert together[number].shape == picture.shape
        torch.testing.assert_close(together[number], alone, **CLOSE)


def test_masks_of_several_sizes(pipe):
    masks = [torch.zeros(1, *size) for size in SIZES]
    for mask in masks:
        mask[:, :2, :2] = 1
    made = pipe(ImageToImagePipeline)("a", pictures(), masks, num_inference_steps=2, output_type="pt").images
    for own, new, mask in zip(pictures(), made, masks):
        assert torch.equal(own[:, mask[0] == 0], new[:, mask[0] == 0]) and not torch.equal(own, new)


def test_pictures_of_several_sizes_are_read_in_one_batch(pipe):
    read = pipe(ImageToTextPipeline)
    together = read(pictures(), max_new_tokens=6).texts
    assert together == [read(picture, max_new_tokens=6).texts[0] for picture in pictures()]


def test_documents_hold_pictures_of_several_sizes_and_draw_the_one_that_is_asked_for(pipe):
    write = pipe(InterleavedPipeline)
    options = {"modality_order": ["image"], "num_inference_steps": 1, "output_type": "pt"}
    ((drawn,),) = write([*pictures(), "a nine"], height=6, **options).documents
    assert drawn.shape == (3, 6, 4)


RECIPE = """
name: sizes
data: {source: records, records: [pairs.jsonl], held_out: 0.2}
tokenizers:
  text: {kind: text, vocab_size: 270}
  image: {kind: image_patch, image_size: [[4, 4], [2, 8], [6, 4]], patch_size: 2}
backbone: {kind: mot, dim: 32, layers: 1, heads: 2, ffn_dim: 64}
objectives: {image: {kind: flow}}
training: {steps: 4, rows: 2, row_length: 64, log_every: 2}
sampling: {num_inference_steps: 2}
"""


def test_from_records_of_several_sizes_to_pictures_of_each(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sizes.yaml").write_text(RECIPE)
    with (tmp_path / "pairs.jsonl").open("w") as file:
        for number in range(12):
            height, width = SIZES[number % 3]
            Image.new("RGB", (width * 5, height * 5 + 1), (20 * number, 90, 0)).save(f"{number}.png")
            file.write(json.dumps({"image": f"{number}.png", "text": f"the picture {number}"}) + "\n")
    assert main(["train", "sizes.yaml", "--out", "run"]) == 0
    for number, (height, width) in enumerate(SIZES):
        side = ["--height", str(height)] if number != 1 else ["--width", str(width)]
        assert main(["generate", "run", "--to", "image", "--prompt", "the", "--out", f"{number}-drawn.png", *side]) == 0
        with Image.open(f"{number}-drawn.png") as drawn:
            assert drawn.size == (width, height) and drawn.text["height" if number != 1 else "width"]
    capsys.readouterr()
    assert main(["generate", "run", "--to", "image", "--prompt", "the", "--out", "no.png", "--height", "5"]) == 2
    assert "this model draws 4 x 4, 2 x 8, 6 x 4, got 5 x any" in capsys.readouterr().err
    assert main(["info", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["image_sizes"] == "4 x 4, 2 x 8, 6 x 4"
