"""How long training waits for its data: the quickstart, and 64x64 pictures from tar shards; an index of ten million.

`data_wait` is the share of the steps' wall time in which the loop waited for its next batch, packing included, as
metrics.jsonl has it; the first steps, in which the first window is tokenised, do not count. The shards hold JPEGs of
noise over a gradient with captions of 5 to 15 words, decoded and tokenised by one thread beside the loop. The index is
of ten million documents of some words, made when they are read, in windows of 4096: seconds until the first batch, and
how much the process grew.
"""

import io
import json
import random
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mot_gen.data.loader import Loader
from mot_gen.data.records import Document, Pair, Part
from mot_gen.packing import best_fit_rows, plan_rows
from mot_gen.recipes.recipe import load_recipe
from mot_gen.recipes.sections import Data, Training
from mot_gen.sequence import Modality, Span
from mot_gen.tokenizers.train_image import small_kl
from mot_gen.training.loop import training_step
from mot_gen.training.runs import prepare

WORDS = ("a", "the", "red", "small", "old", "cat", "house", "tree", "under", "near", "blue", "light", "river", "stone")
WARM_UP = 4  # steps
# Tokens of a document's picture; mean and deviation of its caption's (COCO has 10.5 words, DOCCI 140); slots of a row.
DOCUMENTS = [(0, 13, 3, 256), (0, 150, 60, 1024), (64, 13, 3, 256), (64, 13, 3, 1024), (256, 13, 3, 4096)]
SHARDS = [
    "tokenizers.text.vocab_size=400",
    "tokenizers.image.image_size=[64,64]",
    "tokenizers.image.patch_size=8",
    "tokenizers.image.color_channels=3",
    "backbone.dim=192",
    "backbone.ffn_dim=512",
    "training.row_length=256",
    "training.rows=8",
    "training.workers=1",
    "data.window=512",
    "data.cache_mb=0",
]


def run(steps: int = 24) -> Iterator[dict]:
    """data_wait and row fill of two runs; seconds and MiB of the index; CPU seconds of latents; row fill."""
    yield {"what": "index of 10 million", **index(10_000_000)}
    yield {"what": "a window of latents", **latents(512)}
    yield from ({"what": "row fill", **fill(*each)} for each in DOCUMENTS)
    with tempfile.TemporaryDirectory() as folder:
        yield {"what": "quickstart", **waited([], steps, Path(folder))}
        shard = shards(Path(folder) / "pictures.tar", 2048)
        yield {
            "what": "64x64 pictures from a tar shard",
            **waited([f"data.records={shard}", *SHARDS], steps, Path(folder)),
        }


def waited(overrides: list[str], steps: int, folder: Path) -> dict:
    """The figures of a meter over some steps of the digits recipe with these overrides."""
    threads = "training.threads=1"
    made = prepare(load_recipe("digits", [*overrides, threads, "training.device=cpu"]), folder)
    for _ in range(WARM_UP):
        training_step(made)
    made.meter.read()
    fill = sum(training_step(made)["fill"] for _ in range(steps)) / steps
    read = made.meter.read()
    made.close()
    return {"steps": steps, "data_wait": read["data_wait"], "row_fill": fill}


def shards(path: Path, count: int) -> Path:
    """A WebDataset shard of `count` pictures with captions."""
    rng = random.Random(0)
    gradient = torch.linspace(0, 200, 64).expand(64, 64)
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            noise = torch.randint(0, 56, (64, 64, 3), generator=torch.Generator().manual_seed(number))
            picture = io.BytesIO()
            pixels = (gradient[..., None] + noise).to(torch.uint8).numpy()
            Image.fromarray(pixels).save(picture, "JPEG", quality=90)
            caption = " ".join(rng.choices(WORDS, k=rng.randint(5, 15)))
            record = json.dumps({"image": "jpg", "caption": caption}).encode()
            for suffix, content in (("jpg", picture.getvalue()), ("json", record)):
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


class Many:
    """So many documents of one to forty words, none of which is kept."""

    fingerprint = "many"

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Document:
        rng = random.Random(index)
        return Document(f"d{index}", (Part("text", " ".join(rng.choices(WORDS, k=rng.randint(1, 40)))),))


class Bytes:
    """Text as its bytes."""

    modality, fingerprint = Modality("text", vocab_size=256), "bytes"

    def encode_batch(self, texts: list[str]) -> list[Span]:
        return [Span("text", torch.tensor(list(text.encode()))) for text in texts]


def index(count: int) -> dict:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, cpu_started = time.perf_counter(), time.process_time()
    loader = Loader(Many(count), {"text": Bytes()}, Data(), Training(row_length=1024, rows=8))
    next(loader)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    while loader.plan.position[1] < 3 * loader.data.window:
        next(loader)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds_to_first_batch": seconds, "cpu_seconds": cpu, "grown_mib_after_three_windows": grown / 1024}


def latents(count: int) -> dict:
    """CPU seconds in which pictures of 32 x 32 become latents: alone, in a window's batches, as one rank of four."""
    tokenizers = {"text": Bytes(), "image": small_kl(image_size=32).eval()}
    pictures = torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pairs = [Pair(f"p{i}", picture, ("a caption",)) for i, picture in enumerate(pictures)]
    training = Training(row_length=1024, rows=1)

    def first_pass(world: int) -> float:
        return cpu_seconds(lambda: list(Loader(pairs, tokenizers, Data(), training, 0, world).one_pass()))

    alone = cpu_seconds(lambda: [tokenizers["image"].encode(picture) for picture in pictures])
    return {"pictures": count, "one_by_one": alone, "first_epoch": first_pass(1), "a_rank_of_four": first_pass(4)}


def cpu_seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def fill(picture: int, mean: float, deviation: float, row_length: int) -> dict:
    """How full the rows of a window of 4096 documents get, by best fit and as they are planned."""
    shape = (mean / deviation) ** 2
    captions = np.ceil(np.random.default_rng(0).gamma(shape, mean / shape, 4096)).astype(int)
    lengths = (captions + 2 + (picture + 2 if picture else 0)).tolist()
    plans = {"best_fit": best_fit_rows, "planned": plan_rows}
    filled = {name: sum(lengths) / (len(plan(lengths, row_length)) * row_length) for name, plan in plans.items()}
    return {"picture": picture, "caption": mean, "row_length": row_length, **filled}
