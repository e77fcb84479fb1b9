"""Tokenizers that a recipe trains: on training samples alone, resumed to the bit, measured, held to their inputs."""

import importlib
import json
import signal

import pytest
import torch

from mot_gen.data.records import Document, Pair, Part, Splits
from mot_gen.data.samples import Samples
from mot_gen.errors import InputError, Interrupted
from mot_gen.recipes.implementations import trainer_name
from mot_gen.recipes.recipe import load_recipe
from mot_gen.training.build import build_tokenizers, load_splits
from mot_gen.training.loop import train
from mot_gen.training.trained_tokenizers import raw_parts, trained_tokenizer

VQ = "tokenizers.image={kind: image_vq, image_size: 8, entries: 16, fold: 1, widths: [8, 8], color_channels: 1}"
KL = "tokenizers.image={kind: image_latent, image_size: 8, latent_channels: 2, fold: 1, widths: [8], color_channels: 1}"
SMALL = ["backbone.dim=32", "backbone.layers=1", "backbone.heads=2", "backbone.ffn_dim=64", "training.rows=2"]


def vq(**training):
    options = {"steps": 6, "batch_size": 8, "checkpoint_every": 2, "log_every": 2} | training
    steps = [f"tokenizers.image.train={json.dumps(options)}", "training.steps=2", *SMALL]
    return load_recipe("digits", [VQ, "objectives.image={kind: next_token}", *steps])


@pytest.fixture(scope="module")
def splits():
    return load_splits(vq())


def make(recipe, splits, folder):
    return trained_tokenizer("image", recipe.tokenizers["image"], splits, folder)


def test_a_finished_one_is_reused_and_says_what_it_keeps(splits, tmp_path, capsys):
    first = make(vq(), splits, tmp_path / "image")
    report = json.loads((tmp_path / "image" / "report.json").read_text())
    assert report["images"] == len(splits.held_out) and report["psnr"] > 5 and "held-out" in report["measured_on"]
    shown = capsys.readouterr().err
    assert "training the image tokenizer" in shown and "reconstruction" in shown and "psnr" in shown
    assert make(vq(), splits, tmp_path / "image").fingerprint == first.fingerprint
    assert not capsys.readouterr().err
    assert not (tmp_path / "image" / "training").exists()


def test_stopped_and_gone_on_is_the_same_to_the_bit(splits, tmp_path, monkeypatch):
    whole = make(vq(), splits, tmp_path / "whole")
    from mot_gen.tokenizers.train_image import ImageTrainer

    step = ImageTrainer.one_step

    def stop_after(trainer):
        if trainer.step == 2:
            signal.raise_signal(signal.SIGINT)
        return step(trainer)

    monkeypatch.setattr(ImageTrainer, "one_step", stop_after)
    with pytest.raises(Interrupted, match="step 3"):
        make(vq(), splits, tmp_path / "stopped")
    monkeypatch.setattr(ImageTrainer, "one_step", step)
    assert make(vq(), splits, tmp_path / "stopped").fingerprint == whole.fingerprint


def test_it_learns_from_the_training_split_alone(splits, tmp_path, monkeypatch):
    from mot_gen.tokenizers import train_image_vq

    seen = []
    monkeypatch.setattr(train_image_vq, "train", lambda tokenizer, raws, *rest: seen.extend(name for name, _ in raws))
    make(vq(), splits, tmp_path)
    assert seen == [pair.id for pair in splits.train]
    assert not set(seen) & {pair.id for pair in splits.held_out}


@pytest.mark.parametrize("change", ["steps", "samples", "entries"])
def test_a_folder_made_from_something_else_is_refused(change, splits, tmp_path):
    make(vq(), splits, tmp_path)
    recipe, given = vq(), splits
    if change == "steps":
        recipe = vq(steps=7)
    elif change == "entries":
        recipe.tokenizers["image"].entries = 17
    else:
        given = Splits(splits.train[1:], splits.held_out)
    with pytest.raises(InputError, match=f"{change}.*remove it"):
        make(recipe, given, tmp_path)


def test_a_damaged_one_is_refused(splits, tmp_path):
    make(vq(), splits, tmp_path)
    weights = next(tmp_path.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InputError, match=rf"{weights.name}.*remove"):
        make(vq(), splits, tmp_path)


def test_without_a_folder_nothing_is_trained(splits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizers = build_tokenizers(vq(), splits)
    assert tokenizers["image"].modality.vocab_size == 16 and not list(tmp_path.iterdir())
    assert tokenizers["image"].fingerprint == build_tokenizers(vq(), splits)["image"].fingerprint


def test_a_run_stopped_in_its_tokenizer_resumes_and_trains(tmp_path, monkeypatch):
    from mot_gen.tokenizers.train_image import ImageTrainer

    monkeypatch.setattr(ImageTrainer, "one_step", lambda trainer: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        train(vq(log_every=100), tmp_path / "run", resume=True)
    monkeypatch.undo()
    run = train(vq(log_every=100), tmp_path / "run", resume=True)
    assert run.step == 2 and run.tokenizers["image"].modality.discrete
    assert train(vq(log_every=100), tmp_path / "run", resume=True).step == 2


def test_latents_are_standardised_from_the_training_pictures(splits, tmp_path):
    recipe = load_recipe("digits", [KL, "tokenizers.image.train={steps: 3, batch_size: 8}", *SMALL])
    tokenizer = make(recipe, splits, tmp_path)
    spans = tokenizer.encode_batch([pair.image for pair in splits.train])
    values = torch.cat([span.values for span in spans])
    assert values.mean(0).abs().max() < 1e-3 and (values.std(0) - 1).abs().max() < 1e-2


def test_raw_parts_are_those_of_the_kind():
    samples = [
        Pair("a", "a.png", ("one", "two")),
        Document("b", (Part("image", "b0.png"), Part("text", "between"), Part("image", "b1.png", loss=False))),
        Document("c", (Part("text", "alone"),)),
    ]
    assert list(raw_parts(samples, "image")) == [("a", "a.png"), ("b", "b0.png"), ("b/1", "b1.png")]


def test_a_users_own_tokenizer_is_trained_by_the_module_beside_it(tmp_path, monkeypatch):
    package = tmp_path / "depths"
    package.mkdir()
    (package / "depth.py").write_text("")
    (package / "train_depth.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Training:\n    steps: int = 1\n"
        "def untrained(levels: int = 2): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = load_recipe("digits", ["tokenizers.image={kind: depths.depth, levels: 3, train: {steps: 5}}"])
    assert recipe.tokenizers["image"].options == {"levels": 3} and recipe.tokenizers["image"].train == {"steps": 5}
    with pytest.raises(InputError, match=r"tokenizers\.image\.train\.step is not known; did you mean 'steps'"):
        load_recipe("digits", ["tokenizers.image={kind: depths.depth, train: {step: 5}}"])


WRONG = {
    "tokenizers.image.train={step: 5}": ("tokenizers.image.train.step", "did you mean 'steps'?"),
    "tokenizers.image.train.steps=few": ("tokenizers.image.train.steps", "valid integer", "got 'few'"),
    "tokenizers.image.train.steps=0": ("tokenizers.image.train.steps", "positive", "got 0"),
    "tokenizers.image.train=5": ("tokenizers", "valid dictionary", "got 5"),
    "tokenizers.image.entrys=5": ("tokenizers.image.entrys", "did you mean 'entries'?"),
    "tokenizers.image.path=elsewhere": ("tokenizers.image", "path", "train", "{kind: image_vq, path: elsewhere}"),
    "tokenizers.image.kind=image_patch": ("tokenizers.image.train", "image_patch learns nothing"),
}


@pytest.mark.parametrize("override", WRONG)
def test_a_wrong_training_is_one_line(override):
    with pytest.raises(InputError) as caught:
        load_recipe("digits", [VQ, "objectives.image={kind: next_token}", "tokenizers.image.train={}", override])
    assert "\n" not in str(caught.value)
    for expected in WRONG[override]:
        assert expected in str(caught.value)


def test_every_trainer_keeps_the_convention():
    import pkgutil

    import mot_gen.tokenizers

    kinds = {module.name for module in pkgutil.iter_modules(mot_gen.tokenizers.__path__)}
    trainable = [kind for kind in kinds if f"train_{kind}" in kinds]
    assert {"image_vq", "image_latent"} <= set(trainable)
    for kind in trainable:
        trainer = importlib.import_module(trainer_name(kind))
        assert trainer.Training().steps > 0
        assert all(callable(getattr(trainer, name)) for name in ("untrained", "train", "measure"))


class Captions(Samples):
    """Pairs whose pictures must not be read."""

    def __len__(self):
        return 30

    def sample(self, index):
        raise AssertionError("a picture is read for its text")

    def outline(self, index):
        return Pair(f"p{index}", None, (f"caption {index}",))


def test_a_vocabulary_is_learned_without_reading_a_picture():
    recipe = load_recipe(
        "digits", ["tokenizers={text: {kind: text, vocab_size: 300}}", "objectives={text: {kind: next_token}}"]
    )
    text = build_tokenizers(recipe, Splits(Captions(), []))["text"]
    assert text.decode(text.encode("caption 7")) == "caption 7" and len(text.encode("caption 7")) < 9
