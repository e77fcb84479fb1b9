"""Names in a folder that somebody else wrote reach nothing outside of it."""

import json

import pytest
import torch
from safetensors.torch import save_file

from mot_gen.checkpoints.folders import refuse_foreign
from mot_gen.errors import InputError
from mot_gen.files import manifest
from mot_gen.files.safe_names import is_inside
from mot_gen.files.tensors import Shards

OUTSIDE = ("../a", "sub/../../a", "/etc/passwd", "..", "../folderx/a")
INSIDE = ("a", "sub/a", "sub/../a", "..a", "./a", ".")


@pytest.mark.parametrize("relative", [True, False])
def test_a_name_is_inside_or_not(tmp_path, monkeypatch, relative):
    monkeypatch.chdir(tmp_path)
    folder = "folder" if relative else tmp_path / "folder"
    assert all(is_inside(name, folder) for name in (*INSIDE, str(tmp_path / "folder" / "a")))
    assert not any(is_inside(name, folder) for name in (*OUTSIDE, str(tmp_path)))


@pytest.mark.parametrize("name", ["../secret.safetensors", "absolute"])
def test_an_index_of_weights_names_only_its_folder(tmp_path, name):
    secret, folder = tmp_path / "secret.safetensors", tmp_path / "folder"
    folder.mkdir()
    save_file({"w": torch.ones(1)}, secret)
    named = str(secret) if name == "absolute" else name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": named}}))
    with pytest.raises(InputError, match=r"index\.json: names .*, which lies outside of the folder"):
        Shards.of(folder)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_manifest_lists_only_its_folder(tmp_path, name):
    (tmp_path / "a").write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    manifest.write(folder, files={name: {"size": 1, "sha256": manifest.sha256(tmp_path / "a")}})
    assert "lies outside of the folder" in manifest.damage(folder)


def test_a_component_is_named_by_a_word(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"../model": ["mot_gen.model", "MultimodalModel"]}))
    with pytest.raises(InputError, match=r"model_index\.json: '\.\./model' is no name of a component"):
        refuse_foreign(tmp_path)
