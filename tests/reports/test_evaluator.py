"""Metrics while training: the numbers of the command, failures by name, and a course of training that does not know."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mot_gen.commands.main import main
from mot_gen.data.records import Document, Part
from mot_gen.errors import InputError
from mot_gen.eval.text.likelihood import BitsPerByte
from mot_gen.recipes.recipe import load_recipe
from mot_gen.reports.evaluator import Evaluator, GeneratedSamples
from mot_gen.reports.generated import HeldOut, caption_losses
from mot_gen.reports.hooks import hooks, pipeline_of, sample_grid
from mot_gen.training.loop import train

TINY = [
    "backbone.dim=16",
    "backbone.layers=1",
    "backbone.heads=2",
    "training.rows=2",
    "training.row_length=96",
    "data.held_out=0.02",
    "data.window=48",
    "tokenizers.text.vocab_size=270",
    "training.steps=3",
    "training.warmup_steps=2",
    "training.log_every=1",
    "training.checkpoint_every=9",
    "training.device=cpu",
    "sampling.num_inference_steps=2",
    "sampling.max_new_tokens=8",
    "evaluation.samples=12",
    "evaluation.batch_size=5",
    "evaluation.extractor=pixels",
]
METRICS = "evaluation.metrics=[fd, kd, pr, bleu, exact_match, bits_per_byte]"


def recipe(*overrides):
    return load_recipe("digits", [*TINY, *overrides])


def evaluations(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["evaluation"] for line in lines if "evaluation" in line}


class Restless(nn.Module):
    """Pixels as features, by a network that draws from the global generator."""

    def forward(self, images):
        torch.rand(3)
        return images.flatten(1)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_measuring_leaves_training_as_it_would_have_been(tmp_path, ema):
    """Weights to the bit, random state and modes, with and without averaged weights."""
    restless = f"evaluation.extractor={__name__}:Restless"
    found, modes = [], []
    for name, extra in (("without", ["training.sample_every=0"]), ("with", ["evaluation.every=2", METRICS, restless])):
        resolved = recipe(f"training.ema={ema}", *extra)
        handed = replace(hooks(resolved), export=lambda run: modes.append(run.model.training))
        run = train(resolved, tmp_path / name, hooks=handed)
        found.append(run.model.state_dict() | {f"ema.{key}": value for key, value in run.averaged.state_dict().items()})
        found[-1]["random"] = torch.get_rng_state()
        torch.manual_seed(0)
    assert found[0].keys() == found[1].keys() and all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    assert modes == [True, True]
    measured = evaluations(tmp_path / "with")
    assert measured.keys() == {2, 3} and not evaluations(tmp_path / "without")
    names = {"fd", "kd", "precision", "recall", "density", "coverage", "bleu", "exact_match", "bits_per_byte"}
    assert measured[2].keys() == measured[3].keys() == names
    kept = json.loads((tmp_path / "with" / "evaluations" / "step-00000003.json").read_text())
    assert kept["step"] == 3 and kept["metrics"]["fd"]["n"] == {"real": 12, "fake": 12}
    assert {name: result["value"] for name, result in kept["metrics"].items()} == measured[3]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Trained for a step; its pictures and captions are noise, which is enough to measure."""
    resolved = recipe("training.steps=1", "training.sample_every=0")
    return train(resolved, tmp_path_factory.mktemp("run") / "run", hooks=hooks(resolved))


def samples_of(run, **changed):
    held_out = HeldOut(run.splits.held_out, changed.pop("count", 12))
    return GeneratedSamples(partial(pipeline_of, run), held_out, **{"batch_size": 5} | changed)


def test_the_numbers_are_those_of_the_command(run, tmp_path):
    samples = samples_of(run)
    results, failed = Evaluator(recipe(METRICS).evaluation)(samples)
    for name in ("real", "drawn"):
        np.save(tmp_path / f"{name}.npy", getattr(samples, name)[:, 0].numpy())
    lines = [{"prediction": text, "references": pair.captions} for text, pair in zip(samples.written, samples.pairs)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = ["--extractor", "pixels", "--no-cache", "--metrics", "fd,kd,pr", "--json", tmp_path / "images.json"]
    assert not failed and not main(
        ["eval", "images", *map(str, [tmp_path / "real.npy", tmp_path / "drawn.npy", *options])]
    )
    words = ["eval", "text", tmp_path / "p.jsonl", "--metrics", "bleu,exact_match", "--json", tmp_path / "text.json"]
    assert main([*map(str, words)]) == 0
    for name in ("images", "text"):
        for metric, told in json.loads((tmp_path / f"{name}.json").read_text())["metrics"].items():
            assert told["value"] == pytest.approx(results[metric].value, rel=1e-12), metric


def test_batches_change_no_sample(run):
    one, other = samples_of(run), samples_of(run, batch_size=12)
    assert torch.equal(one.drawn, other.drawn) and one.written == other.written
    torch.testing.assert_close(one.losses, other.losses)
    assert not torch.equal(one.drawn, samples_of(run, seed=1).drawn)


def test_held_out_pictures_are_tokenised_once(run, monkeypatch):
    """However often the model is asked about them; with other tokenizers they are tokenised again."""
    tokenizer, seen = run.tokenizers["image"], []
    real = type(tokenizer).encode_batch

    def counted(self, media):
        seen.append(len(media))
        return real(self, media)

    monkeypatch.setattr(type(tokenizer), "encode_batch", counted)
    samples = samples_of(run)
    for each in (samples, replace(samples), replace(samples)):  # as at three evaluations
        assert len(each.written) == 12 and len(each.losses) == 12
    assert sum(seen) == 12


def test_a_sample_grid_holds_its_prompts(run):
    sample_grid(run)
    with Image.open(run.folder / "samples" / f"step-{run.step:08d}.png") as image:
        prompts = json.loads(image.text["prompts"])
    assert prompts and all(isinstance(prompt, str) for prompt in prompts)


def test_a_metric_that_fails_is_named_and_the_others_are_measured(run):
    samples = samples_of(run, count=1)
    results, failed = Evaluator(recipe("evaluation.metrics=[fd, exact_match, cider-d]").evaluation)(samples)
    assert results.keys() == {"exact_match"} and failed.keys() == {"fd", "cider-d"}
    assert "N = 1" in failed["fd"]
    no_pairs = replace(samples, held_out=HeldOut([Document("d", (Part("text", "words"),))]))
    results, failed = Evaluator(recipe("evaluation.metrics=[bleu]").evaluation)(no_pairs)
    assert not results and "no held-out sample is a picture with captions" in failed["bleu"]


def test_what_cannot_be_measured_is_said_before_training():
    for metrics, says in (
        ("[fdd]", "evaluation.metrics: 'fdd' is not known; did you mean 'fd'"),
        ("[clip]", "no model given"),
    ):
        with pytest.raises(InputError, match=says):
            hooks(recipe("evaluation.every=1", f"evaluation.metrics={metrics}"))


def test_losses_of_captions_are_the_models_own(run):
    """Token by token: log-softmax of the model's logits at each caption token and at the end, alone in its batch."""
    samples = samples_of(run, count=3)
    alone = [
        caption_losses(pipeline_of(run), [pair.image], [caption])
        for pair, caption in zip(samples.pairs, samples.captions)
    ]
    torch.testing.assert_close(torch.cat(alone), samples.losses)
    metric = BitsPerByte()
    metric.update(samples.losses, samples.captions)
    sizes = sum(len(caption.encode()) for caption in samples.captions)
    assert metric.compute().value == pytest.approx(samples.losses.double().sum().item() / sizes / np.log(2))
