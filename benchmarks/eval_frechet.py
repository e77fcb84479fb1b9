"""Frechet distance beside torchmetrics' in one process: time of the computation at d = 2048, and agreement.

`python -m benchmarks.eval_frechet [--d 2048] [--n 3000] [--repeats 3]` prints one JSON line; a ratio above 1 means that
ours is faster.
"""

import argparse
import json
import os
import time

import torch
from torchmetrics.image.fid import _compute_fid

from mot_gen.eval.frechet import frechet_compute
from mot_gen.eval.moments import moments_of


def timed(function, *args) -> tuple[float, float, float]:
    """Value, processor seconds and wall seconds of one call."""
    start = time.process_time(), time.perf_counter()
    value = function(*args)
    return float(value), time.process_time() - start[0], time.perf_counter() - start[1]


def least(runs: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    """The value, and the least of each time: what the machine can do, not what else it was doing."""
    return runs[0][0], min(run[1] for run in runs), min(run[2] for run in runs)


def features(n: int, d: int, seed: int, decay: float) -> torch.Tensor:
    """Features whose standard deviations fall from 1 to exp(-decay), in random directions."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.linspace(0, -decay, d, dtype=torch.float64).exp()
    mixing = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) * scales) @ mixing.mT


def compared(n: int, d: int, repeats: int, decay: float) -> dict[str, float]:
    """Least seconds of both, their ratios and how far the values are apart."""
    real, fake = (moments_of(features(n, d, seed, decay)) for seed in (0, 1))
    calls = (frechet_compute, real, fake), (_compute_fid, real.mean, real.covariance, fake.mean, fake.covariance)
    runs = [[timed(*call) for call in calls] for _ in range(repeats)]  # in turn, so that both meet the same load
    (ours, our_cpu, our_wall), (theirs, their_cpu, their_wall) = (least(list(column)) for column in zip(*runs))
    return {
        "cpu_seconds": our_cpu,
        "torchmetrics_cpu_seconds": their_cpu,
        "speedup_cpu": their_cpu / our_cpu,
        "speedup_wall": their_wall / our_wall,
        "relative_difference": abs(ours - theirs) / abs(theirs),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d", type=int, default=2048)
    parser.add_argument("--n", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    spectra = {"flat": 0.0, "decaying": 6.0}
    told = {name: compared(args.n, args.d, args.repeats, decay) for name, decay in spectra.items()}
    facts = {"d": args.d, "n": args.n, "threads": torch.get_num_threads(), "cores": os.cpu_count()}
    print(json.dumps({"benchmark": "eval_frechet", **facts, "spectrum": told}))


if __name__ == "__main__":
    main()
