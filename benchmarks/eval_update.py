"""Where the time of `FrechetDistance.update` goes, and whether its memory grows with N.

`python -m benchmarks.eval_update [--images 64]` prints one JSON line: the network's share of the time of an update with
the Inception of FID (random weights: the time is the same), and the peak memory after N and after 4 N features.
"""

import argparse
import json
import resource
import time

import torch

from mot_gen.eval.extractors import Extractor
from mot_gen.eval.frechet import FrechetDistance
from mot_gen.eval.inception import inception_2015


def network_share(images: int, batch: int) -> dict[str, float]:
    """Seconds in the network and in all of `update`; the covariance of a batch and its merge are the rest."""
    half = (128 / 255,) * 3
    torch.manual_seed(0)
    network = inception_2015()
    extractor = Extractor(network, "fid-inception", 299, resize="tf1", mean=half, std=half, sha256="random")
    metric, spent = FrechetDistance(extractor), [0.0]
    forward = network.forward

    def clocked(x):
        start = time.perf_counter()
        features = forward(x)
        spent[0] += time.perf_counter() - start
        return features

    network.forward = clocked
    pictures = torch.randint(0, 256, (images, 3, 256, 256), dtype=torch.uint8)
    start = time.perf_counter()
    for part in pictures.split(batch):
        metric.update(part, real=False)
    total = time.perf_counter() - start
    return {"network_share": spent[0] / total, "seconds_an_image": total / images}


def peak_mib(features: int, batch: int, d: int = 2048) -> float:
    """Peak resident memory after that many features, in MiB."""
    metric = FrechetDistance()
    for _ in range(features // batch):
        metric.update(torch.randn(batch, d), real=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    few, many = peak_mib(2048, 512), peak_mib(8192, 512)
    told = {"benchmark": "eval_update", "images": args.images, "batch": args.batch, "threads": torch.get_num_threads()}
    print(json.dumps({**told, **network_share(args.images, args.batch), "peak_mib": [few, many], "growth": many / few}))


if __name__ == "__main__":
    main()
