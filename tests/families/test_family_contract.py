"""What every family promises, held for each file of mot_gen/families: a new one is tested on arrival."""

import shutil
from contextlib import contextmanager

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mot_gen import families
from mot_gen.commands.main import main
from mot_gen.errors import InputError
from mot_gen.families.shared import conversion
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


@contextmanager
def opened(name, folder):
    """The weights of a published folder."""
    with conversion.open_published(folder, families.by_name(name)) as source:
        yield source.weights


@pytest.fixture(scope="module")
def converted(published, tmp_path_factory):
    """Name of a family -> the folder of ours that its tiny model was converted to, made once."""
    made = {}

    def folder(name):
        if name not in made:
            out, family = tmp_path_factory.mktemp(f"ours-{name}") / "ours", families.by_name(name)
            with conversion.open_published(published(name), family) as source:
                conversion.convert(family, source, family.parts(source), out)
            made[name] = out
        return made[name]

    return folder


@every_family
def test_it_is_recognised_and_no_other_is(name, published):
    found = [other for other in families.names() if families.by_name(other).recognises(published(name))]
    assert found == [name]


@every_family
def test_every_tensor_is_used_once_and_every_parameter_is_written(name, published):
    family = families.by_name(name)
    with conversion.open_published(published(name), family) as source:
        parts = family.parts(source)
        passed_over = getattr(family, "PASSES_OVER", ())
        read = {name: torch.zeros(spec.shape) for name, spec in source.weights.specs.items()}
        for entry in (entry for part in parts for entry in part.table if not entry.copy):
            read[entry.theirs][entry.taken] += 1
        for key, times in read.items():
            assert times.max() <= 1 and (times.any() or key.startswith(tuple(passed_over))), key
        for part in parts:
            filled = {key: torch.zeros(own.shape) for key, own in part.outline.state_dict().items()}
            for entry in part.table:
                filled[entry.ours][entry.place] += 1
            assert all(bool((times == 1).all()) for times in filled.values())


@every_family
def test_streamed_is_in_memory_bit_for_bit(name, published, converted):
    family, out = families.by_name(name), converted(name)
    with conversion.open_published(published(name), family) as source:
        parts = family.parts(source)
        conversion.load(family, source, parts)
    for part in parts:
        streamed = load_file(out / part.name / conversion.WEIGHTS)
        in_memory = part.outline.state_dict()
        assert streamed.keys() == in_memory.keys()
        assert all(torch.equal(streamed[key], value) for key, value in in_memory.items())


@every_family
def test_there_and_back_is_equal_bit_for_bit(name, published, converted, tmp_path):
    assert main(["convert", str(converted(name)), str(tmp_path / "back"), "--like", str(published(name))]) == 0
    files = {path.relative_to(published(name)) for path in published(name).rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path / "back") for path in (tmp_path / "back").rglob("*") if path.is_file()}
    with opened(name, published(name)) as before, opened(name, tmp_path / "back") as after:
        assert before.specs == after.specs
        assert all(torch.equal(before.get(key), after.get(key)) for key in before.specs)


def test_the_way_back_is_that_of_the_model_it_was_made_from(published, converted, tmp_path, capsys):
    ours, like = tmp_path / "ours", str(published("emu3"))
    shutil.copytree(converted("chameleon"), ours)
    assert main(["convert", str(ours), str(tmp_path / "back"), "--like", like]) == 2
    assert f"is of the family chameleon, and {like} of emu3; give what it was made from" in capsys.readouterr().err
    (ours / "family.json").unlink()
    assert main(["convert", str(ours), str(tmp_path / "back"), "--like", like]) == 2
    said = capsys.readouterr().err
    assert "give what it was made from" in said and said.count("\n") == 1 and not (tmp_path / "back").exists()


@every_family
def test_every_weight_of_the_tiny_model_is_random(name, published):
    with opened(name, published(name)) as weights:
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
        with conversion.open_published(folder, family) as source, pytest.raises(InputError, match=message) as error:
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


@pytest.mark.parametrize("name", ["llama", "janusflow"])
def test_a_second_form_of_the_weights_is_neither_read_nor_given_back(name, published, converted, tmp_path):
    both = shutil.copytree(published(name), tmp_path / "both")
    save_file({"other": torch.ones(1)}, both / "consolidated.safetensors")
    with opened(name, both) as weights, opened(name, published(name)) as alone:
        assert weights.specs == alone.specs
    assert main(["convert", str(converted(name)), str(tmp_path / "back"), "--like", str(both)]) == 0
    given_back = {path.name for path in (tmp_path / "back").rglob("*.safetensors")}
    assert given_back == {path.name for path in published(name).rglob("*.safetensors")}


def pickled(folder):
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))


def without_its_config(folder):
    for path in folder.rglob("config.json"):
        path.unlink()


def without_its_special_tokens(folder):
    for path in folder.rglob("tokenizer.json"):
        text = path.read_text()
        for name in ("image", "vision", "racm3"):
            text = text.replace(name, "nothing")
        path.write_text(text)


@pytest.mark.parametrize("name", ["cosmos3", "emu3"])  # one of each layout: a folder with parts, and a flat one
@pytest.mark.parametrize("spoil", [pickled, without_its_config, without_its_special_tokens])
def test_a_spoiled_folder_is_one_line_and_nothing_is_written(name, spoil, published, tmp_path, capsys):
    shutil.copytree(published(name), tmp_path / "spoiled")
    spoil(tmp_path / "spoiled")
    capsys.readouterr()  # what the library that wrote the folder said
    assert main(["convert", str(tmp_path / "spoiled"), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mot-gen: ") and len(said.strip().splitlines()) == 1
    assert str(tmp_path / "spoiled") in said
    assert not (tmp_path / "out").exists()


def test_a_family_of_a_users_own_is_found_by_its_dotted_name(published, tmp_path, monkeypatch, capsys):
    (tmp_path / "families_of_mine").mkdir()
    (tmp_path / "families_of_mine" / "__init__.py").write_text("")
    (tmp_path / "families_of_mine" / "mine.py").write_text(
        "from mot_gen.families.chameleon import *\nLICENCE = 'mine'\n"
    )
    (tmp_path / "families_of_mine" / "empty.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    out, back = tmp_path / "ours", tmp_path / "back"
    own = ["--family", "families_of_mine.mine"]
    assert main(["convert", str(published("chameleon")), str(out), *own]) == 0
    assert main(["info", str(out)]) == 0
    assert "families_of_mine.mine" in capsys.readouterr().out
    assert main(["convert", str(out), str(back), "--like", str(published("chameleon")), *own]) == 0
    with opened("chameleon", published("chameleon")) as before, opened("chameleon", back) as after:
        assert all(torch.equal(before.get(key), after.get(key)) for key in before.specs)
    assert families.by_name("mot_gen.families.llama") is families.by_name("llama")
    for name in ("lama", "families_of_mine.absent", "no_package.mine", "families_of_mine.empty"):
        assert main(["convert", str(published("chameleon")), str(tmp_path / "none"), "--family", name]) == 2
        said = capsys.readouterr().err
        assert said.startswith("mot-gen: family: ") and said.count("\n") == 1
        assert not (tmp_path / "none").exists()
