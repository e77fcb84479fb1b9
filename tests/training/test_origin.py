"""training.init: the checkpoint's tokenizers come along, others are refused, and three lines say what happened."""

import shutil

import pytest
import torch
from tiny_runs import SMALL

from mot_gen.commands.main import main
from mot_gen.errors import InputError
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.recipes.recipe import load_recipe
from mot_gen.reports.hooks import hooks
from mot_gen.tokenizers.text import TextTokenizer
from mot_gen.training.build import build_model
from mot_gen.training.loop import train

TINY = [
    *SMALL,
    "data.window=48",
    "training.steps=2",
    "training.warmup_steps=1",
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("base") / "run"
    recipe = load_recipe("digits", TINY)
    train(recipe, folder, hooks=hooks(recipe))
    return folder


@pytest.fixture(scope="module")
def other_words(tmp_path_factory):
    """Records whose words would make another vocabulary."""
    path = tmp_path_factory.mktemp("records") / "records.jsonl"
    line = '{"id": "%d", "content": [{"type": "text", "text": "zebra quux waldo xylophone %d"}]}\n'
    path.write_text("".join(line % (i, i) for i in range(40)))
    return path


def on(base, records, *overrides):
    return load_recipe("digits", [*TINY, f"data.records={records}", f"training.init={base}", *overrides])


def test_the_checkpoints_tokenizers_come_along_and_it_is_said(base, other_words, tmp_path, capsys):
    run = train(on(base, other_words), tmp_path)
    kept = [folder / "tokenizers" / "text" / "tokenizer.json" for folder in (base, tmp_path)]
    assert kept[0].read_bytes() == kept[1].read_bytes()
    begins, loaded, frozen = capsys.readouterr().err.splitlines()[:3]
    assert begins == f"training begins with {base} ({base}/model/model), by training.init"
    assert loaded.startswith("loaded: ") and "its own tokenizers: text (270 ids" in loaded
    assert "image (4 channels, 8 x 8 pixels" in loaded
    assert frozen == "frozen: nothing; new: nothing"
    assert run.tokenizers["text"].fingerprint == TextTokenizer.from_pretrained(base / "tokenizers/text").fingerprint


def test_a_run_goes_on_without_the_checkpoint_that_it_began_with(base, other_words, tmp_path):
    moved = shutil.copytree(base, tmp_path / "moved")
    train(on(moved, other_words), tmp_path / "run")
    shutil.rmtree(moved)
    assert train(on(moved, other_words, "training.steps=3"), tmp_path / "run", resume=True).step == 3


def test_frozen_and_new_weights_are_said(base, other_words, tmp_path, capsys):
    train(on(base, other_words, "backbone.lora={towers: [text], rank: 2}"), tmp_path / "lora")
    assert "weights of adapters" in capsys.readouterr().err
    train(on(base, other_words, "backbone.frozen=[image]"), tmp_path / "frozen")
    assert "frozen: the towers image; new: nothing" in capsys.readouterr().err


def test_adapters_that_the_checkpoint_has_are_loaded(base, other_words, tmp_path, capsys):
    """With a domain's adapter learned, the next domain's and the gate are all that is new."""
    options = ["backbone.feed_forward={kind: domains, domains: [books], use: books}", "training.learns=[books]"]
    run = train(on(base, other_words, *options), tmp_path / "books", hooks=hooks(on(base, other_words, *options)))
    capsys.readouterr()
    both = on(tmp_path / "books", other_words, "backbone.feed_forward={kind: domains, domains: [books, letters]}")
    learned, made = run.averaged.state_dict(), build_model(both, run.tokenizers).state_dict()
    new = made.keys() - learned.keys()
    assert new and all(".letters." in name or ".gate." in name for name in new)
    name = "backbone.blocks.0.ffn_side.adapter.books.b"
    assert learned[name].any() and all(torch.equal(made[name], value) for name, value in learned.items())
    with pytest.raises(InputError, match="which this recipe's model lacks"):
        build_model(on(tmp_path / "books", other_words), run.tokenizers)


REFUSED = {
    "other ids": (
        "tokenizers.text={kind: text, path: PATH}",
        r"text: describes 270 ids.* and .* has 270 ids",
    ),
    "fewer ids": ("tokenizers.text.vocab_size=262", "vocab_size: 262 is asked for and .* has 270 ids"),
    "other patches": ("tokenizers.image.patch_size=4", "tokenizers.image: describes 16 channels.* has 4 channels"),
    "other kind": ("tokenizers.image={kind: image_vq, image_size: 8, entries: 8, train: {}}", "is not that of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_tokenizers_are_refused_before_anything_is_written(base, other_words, tmp_path, case):
    override, match = REFUSED[case]
    TextTokenizer.train(["zebra quux waldo xylophone"] * 3, 270).save_pretrained(tmp_path / "other")
    objectives = ["objectives.image.kind=next_token"] if case == "other kind" else []
    recipe = on(base, other_words, override.replace("PATH", str(tmp_path / "other")), *objectives)
    with pytest.raises(InputError, match=match) as error:
        train(recipe, tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_weights_without_tokenizers_are_refused_where_one_would_be_trained(base, other_words, tmp_path):
    bare = shutil.copytree(base / "model" / "model", tmp_path / "bare")
    with pytest.raises(InputError, match="has weights without a tokenizer for text"):
        train(on(bare, other_words), tmp_path / "run")
    path = f"tokenizers.text={{kind: text, path: {base}/tokenizers/text}}"
    assert train(on(bare, other_words, path), tmp_path / "run").step == 2
    TextTokenizer.train(["zebra quux waldo xylophone"] * 3, 270).save_pretrained(tmp_path / "other")
    other = f"tokenizers.text={{kind: text, path: {tmp_path}/other}}"
    with pytest.raises(InputError, match=r"is not the tokenizer that .* was trained with"):
        train(on(bare, other_words, other), tmp_path / "again")


def test_the_shipped_checkpoint_which_names_no_fingerprints_brings_its_own(tmp_path, other_words, capsys):
    """By its name alone; the recipe's own `train` sections are not used."""
    fields = ["training.steps=1", "training.warmup_steps=1", "training.rows=1", "training.sample_every=0"]
    recipe = load_recipe(
        "openmoji", [f"data.records={other_words}", "data.options={}", "training.init=openmoji", *fields]
    )
    run = train(recipe, tmp_path / "run")
    shipped = MultimodalPipeline.from_pretrained("openmoji")
    assert run.tokenizers["text"].fingerprint == shipped.text_tokenizer.fingerprint
    assert run.tokenizers["image"].fingerprint == shipped.image_tokenizer.fingerprint
    assert "training begins with openmoji" in capsys.readouterr().err


def test_a_model_that_begins_with_a_checkpoint_is_that_model(base):
    pipe = MultimodalPipeline.from_pretrained(base)
    recipe = load_recipe("digits", [*TINY, f"training.init={base}"])
    built = build_model(recipe, {"text": pipe.text_tokenizer, "image": pipe.image_tokenizer})
    for name, weight in pipe.model.named_parameters():
        assert torch.equal(weight, built.get_parameter(name))


def test_a_damaged_checkpoint_is_named(base, other_words, tmp_path, capsys):
    spoiled = shutil.copytree(base, tmp_path / "spoiled")
    weights = spoiled / "model" / "model" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    options = [*TINY, f"data.records={other_words}", f"training.init={spoiled}"]
    assert main(["train", "digits", *options, "--out", str(tmp_path / "run")]) == 2
    assert "training.init: " in capsys.readouterr().err


def test_times_embedded_at_another_scale_are_refused(base, other_words, tmp_path):
    """No shape tells; with the checkpoint's own scale a mean flow begins with a flow."""
    mean = ["objectives.image.kind=mean_flow"]
    with pytest.raises(InputError, match="embeds the times of image at a scale of 1000, this recipe at 10; say"):
        train(on(base, other_words, *mean), tmp_path / "run")
    assert train(on(base, other_words, *mean, "objectives.image.time_scale=1000.0"), tmp_path / "run").step == 2
