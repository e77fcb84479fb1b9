"""Where the time of `FrechetDistance.update` goes, and whether its memory grows with N.

The Inception of FID at 299 x 299 (random weights: the time is the same) on pictures of 256 x 256, by CPU time; and the
process's peak memory while ever more features of d = 2048 come in.
"""

import resource
import time
from collections.abc import Iterator

import torch

from mot_gen.eval.images import extractors, frechet
from mot_gen.eval.images.extractors import Extractor
from mot_gen.eval.images.frechet import FrechetDistance
from mot_gen.eval.images.inception import inception_2015

IMAGES, BATCH = 32, 16


def run() -> Iterator[dict]:
    """shares: of the time, by part. peak_mib: N -> MiB."""
    yield {"images": IMAGES, "batch": BATCH, **profile()}
    yield {"peak_mib": {n: round(mib) for n, mib in peaks((2048, 4096, 8192, 16384)).items()}}


def profile() -> dict:
    """Shares of an update in the network, in resizing, in the moments, and in all else; and CPU seconds an image."""
    half = (128 / 255,) * 3
    torch.manual_seed(0)
    network = inception_2015()
    metric = FrechetDistance(Extractor(network, "fid-inception", 299, resize="tf1", mean=half, std=half, sha256="-"))
    spent: dict[str, float] = {}
    parts = {"network": (network, "forward"), "resize": (extractors, "resize"), "moments": (frechet, "moments_of")}
    kept = {part: getattr(*place) for part, place in parts.items()}
    pictures = torch.randint(0, 256, (IMAGES, 3, 256, 256), dtype=torch.uint8)
    metric.update(pictures[:BATCH], real=True)
    for part, place in parts.items():
        setattr(*place, clocked(kept[part], part, spent))
    started = time.process_time()
    for batch in pictures.split(BATCH):
        metric.update(batch, real=False)
    total = time.process_time() - started
    for part, place in parts.items():
        setattr(*place, kept[part])
    shares = {part: seconds / total for part, seconds in spent.items()}
    return {"shares": {**shares, "else": 1 - sum(shares.values())}, "seconds_an_image": total / IMAGES}


def clocked(function, part: str, spent: dict[str, float]):
    """The function, adding its CPU seconds to `spent[part]`."""

    def timed(*args, **kwargs):
        started = time.process_time()
        result = function(*args, **kwargs)
        spent[part] = spent.get(part, 0.0) + time.process_time() - started
        return result

    return timed


def peaks(sizes: tuple[int, ...], batch: int = 512, d: int = 2048) -> dict[int, float]:
    """N -> peak resident memory in MiB by the time that N features have come in."""
    metric, seen, found = FrechetDistance(), 0, {}
    for n in sizes:
        while seen < n:
            metric.update(torch.randn(batch, d), real=False)
            seen += batch
        found[n] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found
