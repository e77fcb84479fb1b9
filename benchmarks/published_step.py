"""A training step of a converted BAGEL beside one of our own MoT of the same dimensions, of one picture and text.

Both learn to draw a picture after a text. They differ in what BAGEL's layout asks for: texts that are wrapped, bounds
inside a picture's block, pictures that only they themselves see, a table of positions. The two take turns.
"""

from __future__ import annotations

import statistics
import time

import torch

from mot_gen.model import MultimodalConfig, MultimodalModel
from mot_gen.packing import document_length, pack_rows
from mot_gen.sequence import Modality, Span

DIM, LAYERS, HEADS, WORDS, SIDE, TEXT, ROWS, ROUNDS = 256, 6, 8, 1000, 12, 40, 4, 40


def config(published: bool) -> MultimodalConfig:
    """BAGEL's kind of model, laid out as it is or as ours are."""
    text = {"begin": 0, "end": 1, "wraps": True} if published else {}
    bounds = {"begin": 2, "end": 3, "block": True, "alone": True} if published else {}
    modalities = [
        Modality("text", vocab_size=WORDS, **text),
        Modality("image", channels=64, bidirectional=True, objective="flow", position="grid", **bounds),
    ]
    backbone = {"kind": "mot", "dim": DIM, "layers": LAYERS, "heads": HEADS, "kv_heads": 2, "ffn_dim": 3 * DIM}
    backbone |= {"qkv_bias": True, "towers": {"generation": ["image"], "understanding": ["text"]}}
    layers = {"image": {"kind": "linear", "time_scale": 1.0, "table": SIDE}} if published else {}
    return MultimodalConfig(modalities, backbone, patch_layers=layers)


class Learner:
    """A model, its batch, and what a step of it is."""

    def __init__(self, published: bool):
        torch.manual_seed(0)
        self.model = MultimodalModel(**config(published).to_dict())
        self.optimizer = torch.optim.AdamW((p for p in self.model.parameters() if p.requires_grad), lr=1e-4)
        values = torch.randn(SIDE * SIDE, 64)
        sample = [Span("text", torch.arange(4, TEXT + 4)), Span("image", values, (SIDE, SIDE))]
        length = document_length(sample, self.model.modalities)
        self.batch = pack_rows([[sample]] * ROWS, self.model.modalities, length)

    def step(self) -> None:
        model = self.model
        batch, targets = model.corrupt(self.batch)
        losses, masks = model.losses(batch, model(batch), targets), model.loss_masks(batch)
        total = sum((losses[name] * masks[name]).sum() / masks[name].sum().clamp_min(1) for name in losses)
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()


def run():
    """The ratio of both times, the median of rounds in which each takes its turn."""
    learners = Learner(True), Learner(False)
    ratios = []
    for number in range(ROUNDS + 2):
        seconds = []
        for learner in learners if number % 2 else learners[::-1]:
            begun = time.perf_counter()
            learner.step()
            seconds.append(time.perf_counter() - begun)
        published, own = seconds if number % 2 else seconds[::-1]
        if number >= 2:
            ratios.append(published / own)
    tokens = [learner.batch.layout.modality.numel() for learner in learners]
    yield {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios), "tokens": tokens}
