"""Tiny modalities, samples and models that the tests of the core share: words, picture, speech, mixed, model, clean;
and rounded, for half storage."""

import copy

import torch

from mot_gen.backbone.storage.half_storage import HalfStorage
from mot_gen.model import MultimodalModel
from mot_gen.sequence import Modality, PackedBatch, Span

TEXT = Modality("text", vocab_size=50)
IMAGE = Modality("image", channels=4, bidirectional=True, objective="flow")
SPEECH = Modality("speech", vocab_size=20)
MODALITIES = [TEXT, IMAGE, SPEECH]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def words(n: int, seed: int = 0, learned: bool = True) -> Span:
    return Span("text", torch.randint(50, (n,), generator=generator(seed)), learned=learned)


def picture(rows: int = 2, columns: int = 3, seed: int = 0, learned: bool = True, channels: int = 4) -> Span:
    values = torch.randn(rows * columns, channels, generator=generator(seed))
    return Span("image", values, (rows, columns), learned)


def speech(n: int, seed: int = 0) -> Span:
    return Span("speech", torch.randint(20, (n,), generator=generator(seed)))


def mixed(count: int = 4, with_speech: bool = True) -> list[list[Span]]:
    """Samples of every order and many lengths: caption first, picture first, between words, words alone."""
    orders = [
        lambda i: [words(3 + i, i), picture(2, 3, i)],
        lambda i: [picture(3, 2, i), words(4 + i, i)],
        lambda i: [words(2 + i, i), picture(1, 4, i), words(3, i + 50), speech(5, i)],
        lambda i: [words(6 + i, i)],
    ]
    samples = [orders[i % 4](i) for i in range(count)]
    return samples if with_speech else [[s for s in sample if s.modality != "speech"] for sample in samples]


def model(modalities=MODALITIES, seed: int = 0, shaken: bool = True, **config) -> MultimodalModel:
    """A model of width 32 and two layers. shaken: no parameter stays at the zero or one that it starts from, so that
    every path through the model has its say."""
    backbone = {"kind": "mot", "dim": 32, "layers": 2, "heads": 4, "multiple_of": 32, **config.pop("backbone", {})}
    torch.manual_seed(seed)
    built = MultimodalModel(modalities=[vars(m) for m in modalities], backbone=backbone, **config)
    if shaken:
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return built.eval()


@torch.no_grad()
def rounded(module):
    """A copy whose projections have the values that fp16 leaves of theirs: what half storage is measured by."""
    module = copy.deepcopy(module)
    for layer in module.modules():
        if isinstance(layer, HalfStorage):
            layer.weight.copy_(layer.weight.half())
    return module


def clean(batch: PackedBatch, time: float = 0.0) -> PackedBatch:
    """The batch with every continuous span at one time, its values as they are."""
    for latents in batch.latents.values():
        latents.time = torch.full((len(latents.grids),), time)
    return batch
