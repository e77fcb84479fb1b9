"""Values read from the data and the machine: sizes, colours, lengths, precision, epochs; and the recipe pairs."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mot_gen.errors import InputError
from mot_gen.recipes.recipe import load_recipe
from mot_gen.training.build import load_splits
from mot_gen.training.defaults import patch_size, picture_size, precision, row_length, settle, vocabulary
from mot_gen.training.loop import train

SMALL = [
    "backbone.dim=16",
    "backbone.layers=1",
    "backbone.heads=2",
    "backbone.ffn_dim=32",
    "training.rows=2",
    "training.warmup_steps=1",
    "training.sample_every=0",
    "training.device=cpu",
]


def pictures(folder, height=12, width=16, coloured=False, count=30):
    """Pictures with captions, one a line of records.jsonl."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    lines = []
    for number in range(count):
        shape = (height, width, 3) if coloured else (height, width)
        Image.fromarray(random.integers(0, 255, shape, dtype=np.uint8)).save(folder / f"{number}.png")
        caption = f"a picture of the number {number}"
        lines.append(json.dumps({"id": str(number), "image": f"{number}.png", "caption": caption}))
    path = folder / "records.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def pairs(records, *overrides):
    return load_recipe("pairs", [*SMALL, f"data.records={records}", *overrides])


@pytest.mark.parametrize(("coloured", "channels"), [(False, 1), (True, 3)])
def test_sizes_colours_and_lengths_are_read_from_the_data_and_shown(tmp_path, coloured, channels):
    recipe, said = pairs(pictures(tmp_path, coloured=coloured)), []
    found = settle(recipe, load_splits(recipe), tmp_path / "run", said.append)
    assert found.tokenizers["image"].options == {
        "image_size": [12, 16],
        "patch_size": 2,
        "color_channels": channels,
    }
    assert found.training.row_length % 64 == 0 and found.training.precision in ("fp32", "bf16")
    assert found.auto == [] and recipe.auto
    assert f"tokenizers.image.color_channels: {channels}" in said and len(said) == len(recipe.auto)


def test_what_the_recipe_says_is_not_read_from_the_data(tmp_path):
    recipe = pairs(pictures(tmp_path), "tokenizers.image.image_size=[8, 8]", "training.row_length=192")
    found = settle(recipe, load_splits(recipe), tmp_path / "run", lambda line: None)
    assert found.tokenizers["image"].options["image_size"] == [8, 8] and found.training.row_length == 192


def test_one_text_that_is_far_longer_than_the_others_is_named(tmp_path):
    path, said = pictures(tmp_path), []
    with path.open("a") as file:
        file.write(json.dumps({"id": "long", "image": "0.png", "caption": "word " * 400}) + "\n")
    recipe = pairs(path, "data.held_out=0")
    found = settle(recipe, load_splits(recipe), tmp_path / "run", said.append)
    assert found.training.row_length == row_length(2000, (12, 16), 2)
    told = "the longest text has 2,000 bytes, nine of ten at most 26; training.row_length=192 is faster"
    assert row_length(26, (12, 16), 2) == 192 and told in said[-1]


def test_large_pictures_are_modelled_in_an_autoencoders_latents(tmp_path):
    recipe = pairs(pictures(tmp_path, 100, 120, True, 6))
    image = settle(recipe, load_splits(recipe), tmp_path / "run", lambda line: None).tokenizers["image"]
    assert (image.kind, image.train, image.options["image_size"]) == ("image_latent", {}, [64, 64])


@pytest.mark.parametrize(
    ("given", "kind", "train", "patch", "tokens"),
    [
        (["image_size=96"], "image_latent", {}, 2, 144),
        (["train.steps=7"], "image_latent", {"steps": 7}, 2, 64),
        (["image_size=96", "patch_size=8"], "image_patch", None, 8, 144),
        (["image_size=96", "kind=image_patch"], "image_patch", None, 4, 576),
        (["image_size=16"], "image_patch", None, 2, 64),
        (["kind=image_latent"], "image_latent", {}, 2, 64),
        (["image_size=[[96, 48], [48, 96]]", "kind=image_patch"], "image_patch", None, 4, 288),
    ],
)
def test_what_is_said_of_large_pictures_holds(tmp_path, given, kind, train, patch, tokens):
    recipe = pairs(pictures(tmp_path, 100, 120, True, 6), *[f"tokenizers.image.{option}" for option in given])
    found = settle(recipe, load_splits(recipe), tmp_path / "run", lambda line: None)
    image = found.tokenizers["image"]
    assert (image.kind, image.train, image.options["patch_size"]) == (kind, train, patch)
    assert found.training.row_length > 2 * tokens


def test_a_tokenizer_of_which_nothing_is_left_to_the_data_stays_as_it_is(tmp_path):
    image = "tokenizers.image={kind: image_latent, image_size: 8, vae_config: {}}"
    recipe, said = load_recipe("digits", [*SMALL, image, "training.precision=auto"]), []
    found = settle(recipe, load_splits(recipe), tmp_path / "run", said.append)
    assert found.tokenizers == recipe.tokenizers and found.tokenizers["image"].train is None
    assert [line.partition(":")[0] for line in said] == ["data.source", "training.precision"]


def test_how_an_autoencoder_is_trained_is_not_said_where_none_is_needed(tmp_path):
    with pytest.raises(InputError, match=r"tokenizers\.image\.train\.step is not known.*steps"):
        pairs(pictures(tmp_path), "tokenizers.image.train.step=7")
    recipe = pairs(pictures(tmp_path), "tokenizers.image.train.steps=7")
    with pytest.raises(InputError, match=r"tokenizers\.image\.train: .* pixels.*tokenizers\.image\.kind=image_latent"):
        settle(recipe, load_splits(recipe), tmp_path / "run", lambda line: None)


def test_a_run_goes_on_with_the_values_that_it_began_with(tmp_path):
    records = pictures(tmp_path / "data")
    train(pairs(records, "training.steps=1"), tmp_path / "run")
    saved = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert saved.auto == [] and saved.tokenizers["image"].options["image_size"] == [12, 16]
    pictures(tmp_path / "data", 8, 8)  # the pictures are others now
    run = train(pairs(records, "training.steps=2", "data.accept_changed=true"), tmp_path / "run", resume=True)
    assert run.recipe.tokenizers["image"].options["image_size"] == [12, 16] and run.step == 2


def test_the_recipe_trains_on_the_digits_where_no_data_is_given(tmp_path):
    run = train(load_recipe("pairs", [*SMALL, "training.steps=1"]), tmp_path)
    assert run.tokenizers["image"].size == (8, 8) and run.tokenizers["image"].color_channels == 1


def test_epochs_are_steps(tmp_path, capsys):
    """30 samples less those held out; an epoch is as many batches of two rows as they fill."""
    options = ["training.epochs=2", "training.row_length=128", "training.checkpoint_every=100"]
    run = train(pairs(pictures(tmp_path / "data"), *options), tmp_path / "run")
    steps = run.recipe.training.steps
    assert run.step == steps and f"training.epochs: 2 are {steps} steps" in capsys.readouterr().err
    assert run.loader.state_dict()["epoch"] in (1, 2)
    again = train(pairs(tmp_path / "data" / "records.jsonl", *options), tmp_path / "run", resume=True)
    assert again.step == steps


def test_auto_elsewhere_is_a_value_like_any_other(tmp_path):
    with pytest.raises(InputError, match=r"training\.steps"):
        load_recipe("digits", ["training.steps=auto"])
    assert load_recipe("digits", ["training.parallel=auto"]).auto == []


@pytest.mark.parametrize(("size", "brought"), [((28, 28), (28, 28)), ((8, 8), (8, 8)), ((27, 30), (28, 32))])
def test_small_pictures_keep_their_size_in_steps_of_four(size, brought):
    assert picture_size(size) == brought
    assert brought[0] % patch_size(brought) == 0 == brought[1] % patch_size(brought)


def test_patches_divide_a_size_that_was_given():
    sizes = [(8, 8), (28, 28), (21, 21), (14, 21), (96, 96), (23, 23)]
    assert [patch_size(size) for size in sizes] == [2, 4, 3, 7, 4, 4]


def test_rows_hold_two_of_the_longest_samples():
    assert row_length(40, (28, 28), 4) == 256 >= 2 * (40 + 49)
    assert [vocabulary(words) for words in (20, 1000, 100_000)] == [512, 2048, 8192]


def test_the_precision_is_the_processors(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert precision("cpu") == "fp32"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert precision("cpu") == "bf16"
