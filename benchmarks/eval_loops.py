"""The loops of metrics beside the usual libraries: CPU time of the reference over ours, update and compute together.

Features of d = 2048 in batches of 100 and of 16; SSIM on pictures of 64 and 256 pixels. References: torchmetrics and
torch-fidelity (Frechet and kernel distance), scikit-image (SSIM), prdc. Those that are not installed are left out.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from benchmarks import alternate
from mot_gen.eval.images.frechet import FrechetDistance
from mot_gen.eval.images.image_pairs import SSIM
from mot_gen.eval.images.kernel import KernelDistance
from mot_gen.eval.images.precision_recall import PrecisionRecall

N, D = 3000, 2048


class Given(nn.Module):
    """An extractor for torchmetrics that passes features through."""

    num_features = D

    def forward(self, features: Tensor) -> Tensor:
        return features


def run(repeats: int = 3) -> Iterator[dict]:
    """For each measure: CPU seconds of all, and how many times ours is faster than each reference."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(N, D, generator=generator)
    fake = torch.randn(N, D, generator=generator) * 1.1 + 0.05
    measures = {
        "frechet, batches of 100": frechet(real, fake, 100),
        "frechet, batches of 16": frechet(real, fake, 16),
        "kernel": kernel(real, fake),
        "precision and recall": precision(real, fake),
        "ssim, 256 pixels": ssim(16, 256),
        "ssim, 64 pixels": ssim(64, 64),
    }
    for name, actions in measures.items():
        seconds = alternate(actions, repeats)
        ratios = {who: spent / seconds["ours"] for who, spent in seconds.items() if who != "ours"}
        yield {"measure": name, "cpu_seconds": seconds, "reference_over_ours": ratios}


Actions = dict[str, Callable[[], object]]


def frechet(real: Tensor, fake: Tensor, batch: int) -> Actions:
    from torchmetrics.image.fid import FrechetInceptionDistance

    def theirs() -> object:
        return fed(FrechetInceptionDistance(feature=Given()), real, fake, batch)

    actions: Actions = {"ours": lambda: fed(FrechetDistance(), real, fake, batch), "torchmetrics": theirs}
    if find_spec("torch_fidelity"):
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

        def fidelity() -> object:
            sides = [fid_features_to_statistics(torch.cat(side.split(batch))) for side in (real, fake)]
            return fid_statistics_to_metric(*sides, verbose=False)

        actions["torch-fidelity"] = fidelity
    return actions


def kernel(real: Tensor, fake: Tensor) -> Actions:
    from torchmetrics.image.kid import KernelInceptionDistance

    actions: Actions = {
        "ours": lambda: fed(KernelDistance(), real, fake, 100),
        "torchmetrics": lambda: fed(KernelInceptionDistance(feature=Given(), subset_size=1000), real, fake, 100),
    }
    if find_spec("torch_fidelity"):
        from torch_fidelity.metric_kid import kid_features_to_metric

        options = {"kid_subsets": 100, "kid_subset_size": 1000, "verbose": False}
        actions["torch-fidelity"] = lambda: kid_features_to_metric(real, fake, **options)
    return actions


def precision(real: Tensor, fake: Tensor) -> Actions:
    actions: Actions = {"ours": lambda: fed(PrecisionRecall(nearest_k=5), real, fake, 100)}
    if find_spec("prdc"):
        import prdc

        def theirs() -> object:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints its sizes
                return prdc.compute_prdc(real.numpy(), fake.numpy(), nearest_k=5)

        actions["prdc"] = theirs
    return actions


def ssim(n: int, size: int) -> Actions:
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(n, 3, size, size, generator=generator, dtype=torch.float64)
    two = (one + 0.1 * torch.rand(one.shape, generator=generator, dtype=torch.float64)).clamp(max=1)

    def ours() -> object:
        metric = SSIM()
        metric.update(one, two)
        return metric.compute()

    actions: Actions = {"ours": ours}
    if find_spec("skimage"):
        from skimage.metrics import structural_similarity

        options = {"data_range": 1, "channel_axis": 0, "gaussian_weights": True, "use_sample_covariance": False}

        def theirs() -> object:
            return [structural_similarity(a.numpy(), b.numpy(), sigma=1.5, **options) for a, b in zip(one, two)]

        actions["scikit-image"] = theirs
    return actions


def fed(metric, real: Tensor, fake: Tensor, batch: int) -> object:
    """What a metric of two sets computes, given both in batches."""
    for side, features in ((True, real), (False, fake)):
        for part in features.split(batch):
            metric.update(part, real=side)
    return metric.compute()
