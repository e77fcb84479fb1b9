"""What every family promises, held for each file of mot_gen/families: a new one is tested on arrival."""

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mot_gen import families
from mot_gen.commands.main import main
from mot_gen.errors import InputError
from mot_gen.families import conversion
from mot_gen.files.tensors import Shards

every_family = pytest.mark.parametrize("name", families.names())


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Name of a family -> the folder of its tiny model, made once."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            families.by_name(name).tiny(made[name])
        return made[name]

    return folder


def converted(name, folder, out):
    """The folder of ours that the tiny model was converted to."""
    family = families.by_name(name)
    with conversion.opened(folder, family) as source:
        conversion.convert(family, source, family.parts(source), out)
    return out


@every_family
def test_it_is_recognised_and_no_other_is(name, published):
    found = [other for other in families.names() if families.by_name(other).recognises(published(name))]
    assert found == [name]


@every_family
def test_every_tensor_is_used_once_and_every_parameter_is_written(name, published):
    family = families.by_name(name)
    with conversion.opened(published(name), family) as source:
        parts = family.parts(source)
        leading_back = [entry.theirs for part in parts for entry in part.table if not entry.copy]
        assert sorted(leading_back) == sorted(source.weights.specs)
        for part in parts:
            filled = {key: torch.zeros(own.shape) for key, own in part.outline.state_dict().items()}
            for entry in part.table:
                filled[entry.ours][entry.place] += 1
            assert all(bool((times == 1).all()) for times in filled.values())


@every_family
def test_streamed_is_in_memory_bit_for_bit(name, published, tmp_path):
    family, out = families.by_name(name), converted(name, published(name), tmp_path / "out")
    with conversion.opened(published(name), family) as source:
        parts = family.parts(source)
        conversion.load(family, source, parts)
    for part in parts:
        streamed = load_file(out / part.name / conversion.WEIGHTS)
        in_memory = part.outline.state_dict()
        assert streamed.keys() == in_memory.keys()
        assert all(torch.equal(streamed[key], value) for key, value in in_memory.items())


@every_family
def test_there_and_back_is_equal_bit_for_bit(name, published, tmp_path):
    out = converted(name, published(name), tmp_path / "out")
    assert main(["convert", str(out), str(tmp_path / "back"), "--like", str(published(name))]) == 0
    files = {path.relative_to(published(name)) for path in published(name).rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path / "back") for path in (tmp_path / "back").rglob("*") if path.is_file()}
    with Shards.of(published(name)) as before, Shards.of(tmp_path / "back") as after:
        assert before.specs == after.specs
        assert all(torch.equal(before.get(key), after.get(key)) for key in before.specs)


@every_family
def test_every_weight_of_the_tiny_model_is_random(name, published):
    with Shards.of(published(name)) as weights:
        for key in weights.specs:
            assert weights.get(key).float().unique().numel() > 1 or weights.get(key).numel() == 1, key


def edited(folder, out, change):
    """A copy of a published folder whose first weight file holds what `change` makes of its tensors."""
    shutil.copytree(folder, out)
    path = sorted(out.rglob("*.safetensors"))[0]
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(tensors)
    save_file(tensors, path)
    return out


@every_family
def test_bad_weights_are_refused_in_one_line_and_nothing_is_written(name, published, tmp_path):
    family = families.by_name(name)

    def refused(folder, message):
        with conversion.opened(folder, family) as source, pytest.raises(InputError, match=message) as error:
            conversion.convert(family, source, family.parts(source), tmp_path / "out")
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()

    def first(tensors):
        return max(tensors, key=lambda key: tensors[key].numel())

    more = edited(published(name), tmp_path / "more", lambda tensors: tensors.update(extra=torch.ones(1)))
    refused(more, "holds the tensor extra, which this family does not have")
    fewer = edited(published(name), tmp_path / "fewer", lambda tensors: tensors.pop(first(tensors)))
    refused(fewer, "is missing; fetch all of its files")
    cut = edited(published(name), tmp_path / "cut", lambda t: t.update({first(t): t[first(t)][:-1].contiguous()}))
    refused(cut, "in place of|of shape")
    whole = edited(published(name), tmp_path / "int", lambda t: t.update({first(t): t[first(t)].to(torch.int8)}))
    refused(whole, "quantised weights are not read")


def test_a_folder_of_no_family_is_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"is of no known family .*llama: a config.json whose model_type is one of"):
        families.recognise(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    with pytest.raises(InputError, match=r"model-1.safetensors: is missing, and model.safetensors.index.json names it"):
        Shards.of(tmp_path)


def test_a_family_of_a_users_own_is_found_by_its_dotted_name():
    assert families.by_name("mot_gen.families.llama") is families.by_name("llama")
    with pytest.raises(InputError, match="family: 'lama' is not known; did you mean 'llama'"):
        families.by_name("lama")
