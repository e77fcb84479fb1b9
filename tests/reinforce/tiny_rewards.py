"""A tiny model of digits to begin with, recipes that reward it, and rewards of one's own; no pytest here, since
processes that torchrun would start import it."""

from pathlib import Path

import torch

from mot_gen.packing import pack
from mot_gen.recipes.recipe import load_recipe
from mot_gen.reinforce.hooks import reinforce_hooks
from mot_gen.reports.hooks import hooks
from mot_gen.training.loop import Hooks, train

TINY = [
    "training.threads=1",
    "backbone.dim=16",
    "backbone.layers=1",
    "backbone.heads=2",
    "backbone.ffn_dim=32",
    "training.row_length=64",
    "training.rows=4",
    "training.warmup_steps=1",
    "training.checkpoint_every=3",
    "training.log_every=1",
    "training.sample_every=0",
    "training.device=cpu",
    "training.peak_flops=1e11",
    "sampling.num_inference_steps=2",
    "evaluation.report=false",
    "evaluation.prompts=[a, b]",
]
REWARDED = [
    "reinforce.prompts=2",
    "reinforce.group=3",
    "reinforce.num_inference_steps=3",
    "reinforce.learned_steps=0",
    "reinforce.max_new_tokens=5",
]
UNWATCHED = "reinforce.watched={}"
BRIGHT = ["reinforce.rewards={bright: {kind: 'tiny_rewards:brightness'}}", UNWATCHED]
WORDS = ["reinforce.writes=[text]", "reinforce.rewards={words: {kind: 'tiny_rewards:words'}}", UNWATCHED]
BOTH = ["reinforce.writes=[text, image]", "reinforce.rewards={both: {kind: 'tiny_rewards:both'}}", UNWATCHED]


def begin(folder: Path, *overrides: str) -> Path:
    """A model of two steps."""
    recipe = load_recipe("digits", [*TINY, "tokenizers.text.vocab_size=270", "training.steps=2", *overrides])
    train(recipe, folder, hooks=hooks(recipe))
    return folder


def rewarded(name: str, origin: Path, *overrides: str):
    """A shipped recipe of rewards at tiny size."""
    vocabulary = "tokenizers.text.vocab_size=270"
    return load_recipe(name, [*TINY, *REWARDED, vocabulary, f"training.init={origin}", *overrides])


def learn(recipe, folder: Path, resume: bool = False, **kept):
    """The run of a recipe with rewards."""
    return train(recipe, folder, resume, reinforce_hooks(recipe, Hooks(**kept)))


def brightness(images):
    """A reward of one's own."""
    return images.mean((1, 2, 3))


def same(images):
    """One that cannot tell pictures apart."""
    return [0.5] * len(images)


def sometimes(images):
    """One that fails on dark pictures."""
    if images.mean((1, 2, 3)).min() < images.mean():
        raise ValueError("too dark")
    if len(images) == 1 and images.mean() < 0.5:
        raise ValueError("too dark")
    return images.mean((1, 2, 3))


def asks(picture):
    """One that asks for what there is not."""
    return picture


def words(texts):
    """Another."""
    return [float(len(text.split())) for text in texts]


def both(images, texts):
    """One of both."""
    return [float(image.mean()) + len(text) / 100 for image, text in zip(images, texts)]


def parameters(run) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


def texts_of(run):
    """A batch of texts alone."""
    spans = [[span] for span in run.tokenizers["text"].encode_batch(["the digit one", "a handwritten 7"])]
    batch = pack(spans, run.model.modalities, 64)
    for latents in batch.latents.values():
        latents.time = torch.zeros(0)
    return batch
