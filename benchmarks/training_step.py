"""A training step of the Mixture-of-Transformers over that of the dense model of the same active FLOPs.

512 x 8, 8 rows of 192: two documents a row, each 28 text tokens and 64 latents of 16 channels. Forward, backward and
AdamW. The matmul peak is that of a 2048^3 product in the same process.
"""

from collections.abc import Iterator

import torch

from benchmarks import alternate
from mot_gen.flops import forward_flops
from mot_gen.model import MultimodalModel
from mot_gen.packing import pack
from mot_gen.sequence import Modality, PackedBatch, Span

TEXT = Modality("text", vocab_size=512)
IMAGE = Modality("image", channels=16, bidirectional=True, objective="flow")
SIZE = 2048  # of the product that sets the peak


def run(repeats: int = 5) -> Iterator[dict]:
    """step_over_dense, and the share of the peak that each model's step reaches."""
    torch.manual_seed(0)
    batch = pack([document() for _ in range(16)], [TEXT, IMAGE], 192)
    models = {kind: model(kind) for kind in ("dense", "mot")}
    factors = torch.randn(2, SIZE, SIZE)
    actions = {kind: step(built, batch) for kind, built in models.items()}
    seconds = alternate({**actions, "peak": lambda: factors[0] @ factors[1]}, repeats)
    peak = 2 * SIZE**3 / seconds["peak"]
    share = {kind: 3 * forward_flops(built, batch) / seconds[kind] / peak for kind, built in models.items()}
    yield {"step_over_dense": seconds["mot"] / seconds["dense"], "share_of_peak": share}


def document() -> list[Span]:
    return [Span("text", torch.randint(512, (28,))), Span("image", torch.randn(64, 16), (8, 8))]


def model(kind: str) -> MultimodalModel:
    return MultimodalModel([vars(TEXT), vars(IMAGE)], {"kind": kind, "dim": 512, "layers": 8, "heads": 8}).train()


def step(built: MultimodalModel, batch: PackedBatch):
    """One whole step as a function of nothing."""
    optimizer = torch.optim.AdamW(built.parameters(), lr=1e-4, fused=True)

    def action():
        noisy, targets = built.corrupt(batch)
        masks, losses = built.loss_masks(noisy), built.losses(noisy, built(noisy), targets)
        sum((losses[name] * masks[name]).sum() / masks[name].sum() for name in losses).backward()
        optimizer.step()
        optimizer.zero_grad()

    return action
