"""Every backbone's training step over the dense one's of equal active FLOPs, and Mamba's scan beside its recurrence.

Steps: as in `training_step`, 512 x 8, 8 rows of 192. The scan: forward and backward at length 1024, 256 channels of 16
states. Its references: the recurrence under autograd, a step reading slices of decays and inputs that were made for all
steps at once (as the paper's own reference and Hugging Face's slow path do); and `scan_by_steps`, whose steps make
their own, which is the fastest loop that autograd can differentiate.
"""

from collections.abc import Iterator

import torch

from benchmarks import alternate
from benchmarks.training_step import IMAGE, TEXT, document, model, step
from mot_gen.backbone.recurrent.selective_scan import scan_by_steps, selective_scan
from mot_gen.flops import forward_flops
from mot_gen.packing import pack

KINDS = ("dense", "mot", "moe4x", "hybrid")
LENGTH, CHANNELS, STATES = 1024, 256, 16


def run(repeats: int = 3) -> Iterator[dict]:
    """steps over dense with the FLOPs they stand for, and the references' time over the scan's."""
    torch.manual_seed(0)
    batch = pack([document() for _ in range(16)], [TEXT, IMAGE], 192)
    models = {kind: model(kind) for kind in KINDS}
    seconds = alternate({kind: step(built, batch) for kind, built in models.items()}, repeats)
    dense = forward_flops(models["dense"], batch)
    for kind in KINDS[1:]:
        flops = forward_flops(models[kind], batch) / dense
        yield {"backbone": kind, "step_over_dense": seconds[kind] / seconds["dense"], "flops_over_dense": flops}
    given = scan_arguments()
    scans = (selective_scan, scan_by_steps, scan_of_slices)
    seconds = alternate({scan.__name__: lambda scan=scan: gradients(scan, given) for scan in scans}, 1)
    for name in ("scan_by_steps", "scan_of_slices"):
        yield {"reference": name, "length": LENGTH, "time_over_scan": seconds[name] / seconds["selective_scan"]}


def scan_arguments() -> list:
    """Random inputs of one row, without a second document."""
    shapes = [(LENGTH, 1, CHANNELS)] * 2 + [(STATES, CHANNELS)] + [(LENGTH, 1, STATES)] * 2
    u, delta, A, B, C = (torch.randn(shape) for shape in shapes)
    learned = [t.requires_grad_() for t in (u, delta.sigmoid(), -A.exp(), B, C)]
    return [*learned, torch.zeros(LENGTH, 1, dtype=torch.bool), torch.zeros(1, STATES, CHANNELS)]


def gradients(scan, given: list) -> None:
    """Forward and backward."""
    torch.autograd.grad(scan(*given).sum(), given[:5])


def scan_of_slices(u, delta, A, B, C, start, h):
    """The published reference: all decays and inputs first, then a slice of each at every step."""
    decay, fed = torch.exp(delta[:, :, None] * A), B[..., None] * (delta * u)[:, :, None]
    y = []
    for t in range(len(u)):
        h = decay[t] * h.masked_fill(start[t][:, None, None], 0.0) + fed[t]
        y.append((C[t][..., None] * h).sum(1))
    return torch.stack(y)
