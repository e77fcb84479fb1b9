"""Recipes: what is shipped loads, what is saved comes back, and what is wrong is one line that says where and how."""

import re

import pytest
import yaml

from mot_gen.errors import InputError
from mot_gen.recipes import recipe
from mot_gen.recipes.implementations import check_options, locate
from mot_gen.recipes.recipe import Recipe, load_recipe
from mot_gen.recipes.sections import Objective, Training


@pytest.mark.parametrize("name", recipe.shipped_recipes())
def test_shipped_recipes_load_and_round_trip(name, tmp_path):
    loaded = load_recipe(name)
    assert loaded.name == name
    loaded.save(tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == loaded
    saved = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert saved["training"].keys() == Training.model_fields.keys()


def test_overrides_reach_every_section():
    changed = load_recipe(
        "digits",
        [
            "name=mine",
            "training.steps=7",
            "training.lr=2e-4",
            "training.betas=[0.8, 0.9]",
            "data.caption_first=0.8",
            "tokenizers.image.patch_size=4",
            "backbone.towers={all: [text, image]}",
            "backbone.lr_factors.all=0.1",
            "evaluation.prompts=[a, b]",
        ],
    )
    assert changed.name == "mine" and changed.training.steps == 7 and changed.training.lr == 2e-4
    assert changed.training.betas == (0.8, 0.9) and changed.data.caption_first == 0.8
    assert changed.tokenizers["image"].options["patch_size"] == 4
    assert changed.backbone.options["towers"] == {"all": ["text", "image"]} and changed.backbone.lr_factors == {
        "all": 0.1
    }
    assert changed.evaluation.prompts == ["a", "b"]


def test_records_make_themselves_the_source():
    assert load_recipe("digits", ["data.records=mine.jsonl"]).data.source == "records"
    given = load_recipe("digits", ["data.records=[a.jsonl, {path: b, weight: 2}]"]).data.records
    assert [(each.path, each.weight) for each in given] == [("a.jsonl", 1), ("b", 2)]


def test_another_kind_of_objective_keeps_only_its_weight():
    changed = load_recipe("digits", ["objectives.image.kind=diffusion", "objectives.image.steps=100"])
    assert changed.objectives["image"] == Objective(kind="diffusion", weight=5.0, steps=100)


def test_a_named_size_replaces_the_shape_but_for_what_is_given_beside_it():
    changed = load_recipe("digits", ["backbone.layers=4", "backbone.size=163M"]).backbone
    assert changed.options == {"size": "163M", "layers": 4}
    assert load_recipe("digits", ["backbone.size=null"]).backbone.options["dim"] == 128


def test_options_are_what_stands_beside_the_kind():
    image = load_recipe("digits", ["objectives.image={kind: flow, weight: 5, shift: 3}"]).objectives["image"]
    assert (image.kind, image.weight, image.options) == ("flow", 5, {"shift": 3})


def test_first_modality_learns_the_next_token_by_default():
    raw = load_recipe("digits").model_dump()
    del raw["objectives"]["text"]
    assert Recipe.model_validate(raw).objectives["text"] == Objective(kind="next_token")


def test_differences_name_the_fields():
    before = load_recipe("digits")
    after = load_recipe("digits", ["training.lr=0.5", "backbone.dim=64", "objectives.image.shift=3"])
    assert sorted(recipe.differences(before, after)) == [
        "backbone.dim: 128 -> 64",
        "objectives.image.shift: None -> 3",
        f"training.lr: {before.training.lr} -> 0.5",
    ]
    assert recipe.differences(before, before) == []


WRONG = {
    "training.stps=3": ("override training.stps", "did you mean 'steps'?"),
    "trainin.steps=3": ("trainin", "did you mean 'training'?"),
    "objectives.image.tme=uniform": ("override objectives.image.tme", "did you mean 'time'?"),
    "objectives.imag={kind: flow}": ("objectives", "'imag'", "did you mean 'image'?"),
    "objectives.image.time=normal": ("objectives", "flow.time", "did you mean 'logit_normal'?"),
    "objectives.image.shift=high": ("override objectives.image.shift", "valid number", "got 'high'"),
    "objectives.image.weight=-1": ("override objectives.image.weight", "greater than or equal to 0", "got -1"),
    "objectives.image.kind=fow": ("objectives.image.kind", "'fow'", "did you mean 'flow'?"),
    "objectives={}": ("objectives.image is missing",),
    "data.records=[]": ("override data.records", "names no file"),
    "training.steps=-3": ("override training.steps", "greater than or equal to 1", "got -3"),
    "training.steps=ten": ("override training.steps", "valid integer", "got 'ten'"),
    "training.steps=true": ("override training.steps", "got True"),
    "training.lr=.nan": ("override training.lr", "got nan"),
    "training.min_lr=1.0": ("training", "min_lr (1.0) is above lr"),
    "training.precision=fp16": ("override training.precision", "'bf16'", "got 'fp16'"),
    "training=3": ("override training", "got 3"),
    "name=../cats": ("override name: '../cats' names no folder in runs/; give one such as cats, or another",),
    "name=": ("override name",),
    "name='.'": ("override name: '.' names no folder",),
    "reinforce={grup: 3}": ("reinforce.grup is not known; did you mean 'group'?",),
    "records=cats": ("override records is not known; did you mean 'data.records'?",),
    "num_train_epochs=3": ("override num_train_epochs is not known; did you mean 'training.epochs'?",),
    "backbone.heads=5": ("backbone.dim: 128", "backbone.heads, 5"),
    "backbone.heads=128": ("backbone.dim: 128", "even multiple", "backbone.heads, 128"),
    "backbone.kv_heads=3": ("override backbone.kv_heads: 3 must divide", "backbone.heads, 4"),
    "backbone.dim=null": ("override backbone.dim", "must be a positive integer", "got None"),
    "backbone.size=36M": ("override backbone.size", "did you mean '37M'?"),
    "backbone.dims=64": ("override backbone.dims", "did you mean 'dim'?"),
    "backbone.dim=-64": ("override backbone.dim", "got -64"),
    "backbone.qk_norm=maybe": ("override backbone.qk_norm", "true, false or layer", "got 'maybe'"),
    "backbone.patch_layers.imag.kind=unet": ("backbone.patch_layers", "did you mean 'image'?"),
    "backbone.untied=[ffm]": ("override backbone.untied", "'ffm'", "did you mean 'ffn'?"),
    "backbone.kind=mott": ("backbone.kind", "did you mean 'mot'?"),
    "backbone.kind=my.backbone": ("backbone.kind", "'my.backbone' is neither shipped nor importable"),
    "backbone.towers={a: [text], b: [imge]}": ("backbone.towers", "did you mean 'image'?"),
    "backbone.towers={a: [text]}": ("override backbone.towers", "no tower has image"),
    "backbone.frozen=[txt]": ("backbone.frozen", "did you mean 'text'?"),
    "tokenizers.image.kind=image_pach": ("tokenizers.image.kind", "did you mean 'image_patch'?"),
    "tokenizers.image.kind=nope": (
        "'nope' is neither shipped nor importable",
        "one of: image_features, image_latent, image_patch, image_scales, image_vq, speech_codec, speech_units, text",
    ),
    "objectives.image.kind=nope": ("diffusion, flow, masked, mean_flow, next_scale, next_token, shortcut",),
    "tokenizers.image.kind=null": ("override tokenizers.image.kind", "valid string"),
    "data.source=digit": ("data.source", "did you mean 'digits'?"),
    "data.source=task": ("data.source", "module mot_gen.datasets.task has no load"),
    "data.source=records": ("data", "needs data.records=FILE"),
    "data.records=[a, {path: b, weight: 0}]": ("override data.records.1.weight", "greater than 0", "got 0"),
    "data.records=[{path: b, weight: -1}]": ("override data.records.0.weight", "greater than 0", "got -1"),
    "data.records=[{path: b, weight: .inf}]": ("override data.records.0.weight", "finite", "got inf"),
    "data.records=[{path: b, weight: much}]": ("override data.records.0.weight", "valid number", "got 'much'"),
    "data.records=[{path: b, wieght: 2}]": ("override data.records.0.wieght", "did you mean 'weight'?"),
    "data.records=[{weight: 2}]": ("override data.records.0.path is missing",),
    "data.records=[3]": ("override data.records", "give the path of a file or folder", "not 3"),
    "training.betas=[0.9, 1]": ("override training.betas.1", "less than 1", "got 1"),
    "data.held_out=1": ("data", "leaves nothing to train on"),
    "training.steps.more=3": ("'steps' is a value",),
    "training.steps": ("is not KEY=VALUE",),
    "training.epochs=0": ("override training.epochs: 0 passes train nothing",),
    "training.steps=[": ("override training.steps", "line 1", "not valid YAML"),
}


def test_how_long_to_train_is_said_once():
    with pytest.raises(InputError, match=r"training\.epochs and training\.steps: both say how long"):
        load_recipe("digits", ["training.epochs=2", "training.steps=3"])
    assert load_recipe("digits", ["training.epochs=0", "training.steps=3"]).training.steps == 3


@pytest.mark.parametrize("override", WRONG)
def test_a_wrong_field_is_one_line(override):
    with pytest.raises(InputError) as caught:
        load_recipe("digits", [override])
    assert "\n" not in str(caught.value)
    for expected in WRONG[override]:
        assert expected in str(caught.value)


FILES = {
    "name: x\nname: y\n": ("line 1", "key 'name' is given twice"),
    "name: [\n": ("not valid YAML",),
    "- a\n": ("a recipe is a mapping", "got list"),
    "": ("a recipe is a mapping",),
    "name: x\nbackbone: {size: 37M}\nobjectives: {}\n": ("mine.yaml: tokenizers is missing",),
    "name: x\ntokenizers: {}\nbackbone: {size: 37M}\nobjectives: {}\n": ("mine.yaml: tokenizers", "at least 1"),
    "name: x\ntraining: {stps: 3}\n": ("mine.yaml: ",),
}


@pytest.mark.parametrize("content", FILES)
def test_a_wrong_file_is_one_line(content, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    for expected in FILES[content]:
        assert expected in str(caught.value)


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="did you mean 'digits'"):
        load_recipe("digts")
    with pytest.raises(InputError, match="no such recipe file"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(InputError, match=r"is no recipe; records are given to one: mot-gen train pairs data\.records="):
        load_recipe(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("name: a")
    with pytest.raises(InputError, match=r"is the folder of a run or a model; give its recipe: .*run/recipe\.yaml"):
        load_recipe(tmp_path / "run")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.yaml: cannot read the recipe"):
        load_recipe(tmp_path / "binary.yaml")


def test_exponents_without_a_dot_are_numbers(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(load_recipe("digits").model_dump(mode="json")).replace("eps: 1.0e-08", "eps: 1e-8"))
    assert "eps: 1e-8" in path.read_text() and load_recipe(path).training.eps == 1e-8


@pytest.mark.parametrize("size", [10**20, 10**15])
def test_sizes_beyond_all_bounds_are_one_line(size):
    from mot_gen.training.build import build_tokenizers, load_splits, outline_model

    recipe = load_recipe("digits", [f"backbone.dim={size}", "tokenizers.text.vocab_size=256"])
    tokenizers = build_tokenizers(recipe, load_splits(recipe))
    with pytest.raises(InputError, match="backbone: no model of these sizes can be made") as error:
        outline_model(recipe, tokenizers)
    assert "\n" not in str(error.value)


def test_implementations_are_found_by_name_and_by_path(monkeypatch, tmp_path):
    assert locate("mot_gen.datasets", "digits").__name__ == "mot_gen.datasets.digits"
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "consistency.py").write_text(
        "class Objective:\n    def __init__(self, levels: int = 2): self.levels = levels\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = load_recipe("digits", ["objectives.image={kind: my_package.consistency, levels: 3}"]).objectives["image"]
    assert mine.options == {"levels": 3} and mine.weight == 1.0
    assert locate("mot_gen.objectives", mine.kind).__name__ == "my_package.consistency"
    with pytest.raises(InputError, match=r"override objectives\.image\.level is not known; did you mean 'levels'"):
        load_recipe("digits", ["objectives.image={kind: my_package.consistency}", "objectives.image.level=3"])
    (tmp_path / "my_package" / "needy.py").write_text("def Objective(levels: int): ...")
    with pytest.raises(InputError, match=r"objectives\.image: Objective\(\) missing 1 required .* 'levels'"):
        load_recipe("digits", ["objectives.image={kind: my_package.needy}"])
    with pytest.raises(InputError, match=r"backbone: module my_package\.consistency has no Config"):
        load_recipe("digits", ["backbone.kind=my_package.consistency"])


def test_options_are_held_to_the_signature():
    def build(raw, image_size: int, patch_size: int = 2): ...

    check_options("tokenizers.image", build, {"image_size": 8, "patch_size": 4})
    with pytest.raises(InputError, match=r"tokenizers\.image\.patchsize is not known; did you mean 'patch_size'\?"):
        check_options("tokenizers.image", build, {"patchsize": 4})
    with pytest.raises(InputError, match=r"tokenizers\.image\.image_size should be a valid integer, got True"):
        check_options("tokenizers.image", build, {"image_size": True})
    check_options("tokenizers.image", lambda **anything: None, {"patchsize": 4})


def test_the_shipped_tokenizers_options_are_checked_by_their_own_signatures():
    from mot_gen.tokenizers.image_patch import PatchImageTokenizer
    from mot_gen.tokenizers.text import TextTokenizer

    tokenizers = load_recipe("digits").tokenizers
    check_options("tokenizers.image", PatchImageTokenizer, tokenizers["image"].options)
    check_options("tokenizers.text", TextTokenizer.train, tokenizers["text"].options)
    with pytest.raises(InputError, match=r"tokenizers\.text\.vocab_size should be a valid integer, got 'many'"):
        check_options("tokenizers.text", TextTokenizer.train, {"vocab_size": "many"})
    for wrong, expected in {"[8, x]": "got [8, 'x']", "{a: 1}": "valid integer or a list, got {'a': 1}"}.items():
        said = rf"tokenizers\.image\.image_size should be .*{re.escape(expected)}$"
        with pytest.raises(InputError, match=said):
            load_recipe("digits", [f"tokenizers.image.image_size={wrong}"])
        with pytest.raises(InputError, match=said):
            check_options("tokenizers.image", PatchImageTokenizer, {"image_size": yaml.safe_load(wrong)})


def test_a_wrong_entry_of_a_list_is_told_apart_from_a_wrong_value():
    with pytest.raises(InputError, match="valid integer or a list of which each is a valid integer, got"):
        load_recipe("digits", ["tokenizers.image.kind=image_vq", "tokenizers.image.image_size=[[8, 8], [4, 4]]"])
