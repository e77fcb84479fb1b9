"""The Frechet distance's computation beside torchmetrics' at d = 2048, and how far the two values are apart.

Covariances with a flat spectrum, with standard deviations that fall by e^6, and of fewer samples than dimensions on one
side, where torchmetrics' value itself is no longer exact.
"""

from collections.abc import Iterator

import torch
from torchmetrics.image.fid import _compute_fid

from benchmarks import alternate
from mot_gen.eval.images.frechet import frechet_compute
from mot_gen.eval.images.moments import moments_of

D = 2048
CASES = {"flat": (3000, 3000, 0.0), "decaying": (3000, 3000, 6.0), "few": (3000, 500, 0.0)}  # N, N, fall


def features(n: int, d: int, seed: int, decay: float) -> torch.Tensor:
    """Features whose standard deviations fall from 1 to exp(-decay), in random directions."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.linspace(0, -decay, d, dtype=torch.float64).exp()
    mixing = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) * scales) @ mixing.mT


def run(repeats: int = 3) -> Iterator[dict]:
    """CPU seconds of both, how many times ours is faster, and the relative difference of the values."""
    for name, (real_n, fake_n, decay) in CASES.items():
        real, fake = (moments_of(features(n, D, seed, decay)) for seed, n in enumerate((real_n, fake_n)))
        theirs = real.mean, real.covariance, fake.mean, fake.covariance
        actions = {
            "ours": lambda real=real, fake=fake: frechet_compute(real, fake),
            "torchmetrics": lambda theirs=theirs: float(_compute_fid(*theirs)),
        }
        values = {who: action() for who, action in actions.items()}
        seconds = alternate(actions, repeats)
        yield {
            "case": name,
            "d": D,
            "n": [real_n, fake_n],
            "cpu_seconds": seconds,
            "speedup": seconds["torchmetrics"] / seconds["ours"],
            "relative_difference": abs(values["ours"] / values["torchmetrics"] - 1),
        }
