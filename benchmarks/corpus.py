"""Tokenising a corpus by one and by two worker processes: images a second, and the ratio.

A small VQ tokenizer of 32 x 32 pictures (untrained; its speed is that of a trained one), pictures of noise in memory.
Processes take seconds to start, so what is timed is from the first shards that all workers have written to the last.
Wall-clock time, since it is what workers are for: on a machine that is shared the ratio says little.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mot_gen.data.records import Pair
from mot_gen.data.tokenize import Corpus, TokenizeOptions, tokenize
from mot_gen.tokenizers.train_image import small_vq

SHARDS, SHARD_SIZE, REPEATS = 16, 128, 2


def pictures() -> list[Pair]:
    noise = np.random.default_rng(0).integers(0, 256, (SHARDS * SHARD_SIZE, 32, 32, 3), dtype=np.uint8)
    return [Pair(str(number), Image.fromarray(pixels)) for number, pixels in enumerate(noise)]


def tokenizers() -> dict:
    torch.manual_seed(0)
    return {"image": small_vq().eval()}


def images_per_second(workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        tokenize(Corpus(pictures, tokenizers), Path(folder), TokenizeOptions(workers=workers, shard_size=SHARD_SIZE))
        written = sorted(path.stat().st_mtime for path in Path(folder).glob("part-*.parquet"))
    return (SHARDS - workers) * SHARD_SIZE / (written[-1] - written[workers - 1])


def run():
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(REPEATS):
        for workers, found in rates.items():
            found.append(images_per_second(workers))
    one, two = (max(found) for found in rates.values())
    yield {
        "what": "corpus of 32x32 pictures by VQ",
        "images_per_second": {"1 worker": round(one, 1), "2 workers": round(two, 1)},
        "ratio": round(two / one, 2),
        "load": round(os.getloadavg()[0], 1),
    }
