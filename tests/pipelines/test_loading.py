"""Folders from anywhere: parts that do not fit, foreign code, damage, sizes beyond all bounds; one line for each."""

import importlib
import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipelines import build

from mot_gen import checkpoints
from mot_gen.commands.main import main
from mot_gen.errors import InputError
from mot_gen.model import MultimodalModel
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.pipelines.pretrained import tokenizers_of
from mot_gen.tokenizers.text import TextTokenizer

WEIGHTS = "model/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    MultimodalPipeline(**build()).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A pipeline's folder that a test may spoil; without its manifest, which would say first that it was."""
    copied = shutil.copytree(saved, tmp_path / "model")
    (copied / "manifest.json").unlink()
    return copied


def edit(path, change):
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def refused(folder, match, **options):
    with pytest.raises(InputError, match=match) as error:
        MultimodalPipeline.from_pretrained(folder, **options)
    assert "\n" not in str(error.value)


def test_a_model_names_the_tokenizers_that_it_was_trained_with(saved):
    pipe = MultimodalPipeline.from_pretrained(saved)
    bound = pipe.model.config.tokenizers
    assert bound == {name: tokenizer.fingerprint for name, tokenizer in tokenizers_of(pipe).items()}
    assert set(bound) == {"text", "image"}


def test_a_checkpoint_without_fingerprints_loads(folder):
    edit(folder / "model" / "config.json", lambda fields: fields.pop("tokenizers"))
    assert MultimodalPipeline.from_pretrained(folder).model.config.tokenizers is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_saved_or_loaded_in_half_precision_still_fits(saved, tmp_path, dtype):
    pipe = MultimodalPipeline(**build("LatentImageTokenizer"))
    pipe.save_pretrained(tmp_path / "whole")
    cast = MultimodalPipeline.from_pretrained(tmp_path / "whole", dtype=torch.bfloat16)
    assert cast.model.dtype == torch.bfloat16
    pipe.to(dtype).save_pretrained(tmp_path / "half")
    assert MultimodalPipeline.from_pretrained(tmp_path / "half").model.dtype == torch.float32
    assert MultimodalPipeline.from_pretrained(tmp_path / "half", dtype=dtype).model.dtype == dtype


def test_a_vocabulary_of_the_same_size_and_other_ids_is_refused(folder):
    other = TextTokenizer.train(["zebra quux waldo xylophone"] * 3, 270)
    assert other.vocab_size == build()["text_tokenizer"].vocab_size
    other.save_pretrained(folder / "text_tokenizer")
    refused(folder, "its text_tokenizer is not the one that its model was trained with")


def test_a_vocabulary_of_another_size_is_refused_with_both_sizes(folder):
    other = TextTokenizer.train(["abcd"], 262)
    other.save_pretrained(folder / "text_tokenizer")
    refused(folder, f"vocabulary of {other.vocab_size} and the model one of 270")
    with pytest.raises(InputError, match="vocabulary of 2"):
        MultimodalPipeline(**build() | {"text_tokenizer": other})


def test_latents_of_other_channels_are_refused():
    from mot_gen.tokenizers.image_patch import PatchImageTokenizer

    with pytest.raises(InputError, match="makes 3 channels and the model takes 12"):
        MultimodalPipeline(**build() | {"image_tokenizer": PatchImageTokenizer((4, 6), 1)})


# ---------------------------------------------------------------- code


@pytest.fixture
def foreign(folder, tmp_path, monkeypatch):
    """A folder whose config names a module that leaves a mark where it is imported."""
    package = tmp_path / "evil_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    mark = tmp_path / "ran"
    (package / "code.py").write_text(f"from mot_gen.backbone.transformer import *\nopen({str(mark)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("evil_package", "evil_package.code"):  # as an earlier test may have left them
        monkeypatch.delitem(sys.modules, name, raising=False)
    edit(folder / "model" / "config.json", lambda fields: fields["backbone"].update(kind="evil_package.code"))
    return folder, mark


def test_foreign_code_needs_permission(foreign):
    folder, mark = foreign
    refused(folder, "names the module evil_package.code, which is not part of mot_gen.*trust_remote_code=True")
    with pytest.raises(InputError, match="not part of mot_gen"):
        MultimodalModel.from_pretrained(folder / "model")
    assert not mark.exists()
    MultimodalPipeline.from_pretrained(folder, trust_remote_code=True)
    assert mark.exists()


def test_a_users_own_tokenizer_is_loaded(folder, tmp_path, monkeypatch):
    """Its module names nothing but the class, built on one of ours."""
    pipe = MultimodalPipeline.from_pretrained(folder)
    ours = pipe.components["image_tokenizer"]
    package = tmp_path / "own_tokenizers"
    package.mkdir()
    base = type(ours)
    (package / "mine.py").write_text(f"import {base.__module__} as ours\nclass Mine(ours.{base.__name__}): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("own_tokenizers.mine").Mine.from_config(ours.config)
    pipe.register_modules(image_tokenizer=mine)
    pipe.save_pretrained(tmp_path / "saved")
    again = MultimodalPipeline.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    assert type(again.components["image_tokenizer"]) is type(mine)


def test_commands_take_the_permission(foreign, capsys):
    folder, mark = foreign
    assert main(["info", str(folder)]) == 2
    assert "--trust-remote-code" in capsys.readouterr().err and not mark.exists()
    assert main(["info", str(folder), "--trust-remote-code"]) == 0 and mark.exists()


def test_an_index_that_names_foreign_code_needs_permission(folder):
    edit(folder / "model_index.json", lambda fields: fields.update(scheduler=["os", "PathLike"]))
    refused(folder, "model_index.json: names the module os, which is not part of mot_gen")


# ---------------------------------------------------------------- faults


def config(**backbone):
    return lambda folder: edit(folder / "model" / "config.json", lambda fields: fields["backbone"].update(backbone))


def without_a_tensor(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors.pop(min(tensors))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def with_nan(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["embedding.weight"][3, 1] = float("nan")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


FAULTS = {
    "missing tensor": (without_a_tensor, "the tensor .* is missing"),
    "nan": (with_nan, r"model: the weights embedding\.weight are not finite"),
    "index is a list": (lambda folder: (folder / "model_index.json").write_text("[]"), "model_index.json: should hold"),
    "index is binary": (
        lambda folder: (folder / "model_index.json").write_bytes(b"\xff\xfe"),
        "index.json: not valid",
    ),
    "index nested": (lambda folder: (folder / "model_index.json").write_text("[" * 100_000), "nested too deep"),
    "index module": (
        lambda folder: edit(folder / "model_index.json", lambda f: f.update(x=["mot_gen.nothing", "X"])),
        r"there is no mot_gen\.nothing\.X",
    ),
    "another pipeline": (
        lambda folder: (folder / "model_index.json").write_text(
            json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]})
        ),
        "model_index.json: is a StableDiffusionPipeline, which has no component `model`",
    ),
    "missing component": (
        lambda folder: shutil.rmtree(folder / "image_tokenizer"),
        "image_tokenizer: is missing, and model_index.json names it",
    ),
    "kind is a number": (config(kind=5), "config.json: does not describe a model"),
    "kind is nothing": (config(kind="nothing"), "'nothing' is not a backbone"),
    "kind with dots": (config(kind="..x"), r"names the module \.\.x, which is not part of mot_gen"),
    "huge width": (config(dim=10**7), "the tensor .* and config.json makes it"),
    "beyond sizes": (config(dim=10**14), "is larger than any size can be"),
    "many layers": (config(layers=10**9), "1000000000 layers are more than"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoiled_folder_is_named_in_one_line(folder, fault):
    spoil, match = FAULTS[fault]
    spoil(folder)
    refused(folder, match)


def test_weights_that_a_manifest_does_not_list_are_refused(saved, tmp_path):
    copied = shutil.copytree(saved, tmp_path / "model")
    edit(copied / "manifest.json", lambda fields: fields["files"].pop(WEIGHTS))
    refused(copied, "is not listed in manifest.json")
    (tmp_path / "model" / "README.md").write_text("more about it")
    edit(copied / "manifest.json", lambda fields: fields["files"].update({"../x": {"size": 1, "sha256": ""}}))
    refused(copied, "lies outside of the folder|is not listed")


def test_a_runs_folder_and_its_model_are_taken(saved):
    assert saved.name == "model"
    for place in (saved, saved.parent):
        assert MultimodalPipeline.from_pretrained(place).model.modality_names == ["text", "image"]


def test_what_is_not_there_is_one_line(tmp_path):
    refused(tmp_path / "nothing", "no such folder")
    refused("two/slashes/name", "no such folder")
    (tmp_path / "checkpoints").mkdir()
    refused(tmp_path, "is a run that has not ended")


def test_a_recipe_given_for_a_checkpoint_is_told_from_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is a recipe and no checkpoint; train it first: mot-gen train digits"):
        checkpoints.find("digits")
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    with pytest.raises(InputError, match="digits: is a recipe and no checkpoint; give its run, runs/digits"):
        checkpoints.find("digits")


def test_a_model_is_found_in_a_pipelines_folder_a_runs_and_by_a_shipped_name(saved):
    for place in (saved, saved.parent, saved / "model", "openmoji"):
        assert MultimodalModel.from_pretrained(place).modality_names == ["text", "image"]
