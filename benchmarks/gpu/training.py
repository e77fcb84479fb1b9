"""Training steps of MoT and of the dense model at the paper's sizes: MFU, tokens a second, memory, MoT over dense."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.gpu.models import WORDS, documents, image_tokenizer, model
from benchmarks.gpu.rows import Figures
from benchmarks.gpu.setting import Setting, Skipped
from mot_gen.flops import forward_flops
from mot_gen.model import MultimodalModel
from mot_gen.packing import pack
from mot_gen.sequence import Modality, PackedBatch

KINDS = ("dense", "mot")
ROWS, LENGTH = 2, 4096  # the paper's row length (arXiv 2411.04996)
SIDE = 8192  # of the product that sets the peak


def training(size: str, compiled: bool, setting: Setting) -> Figures:
    """Forward, backward and fused AdamW in bf16 over full rows. MFU: three forward passes' FLOPs over what the card
    makes in that time when it multiplies two matrices of 8,192 x 8,192 in bf16, measured in between."""
    if compiled and not setting.on_gpu:
        raise Skipped("compiling for a CPU takes minutes and says nothing of a GPU")
    length = setting.pick(LENGTH, 128)
    text = Modality("text", vocab_size=setting.pick(WORDS, 300))
    batch = full_rows(text, length, setting)
    figures: dict[str, float | str] = {"rows": len(batch.layout.document), "row length": length}
    seconds: dict[str, float] = {}
    for kind in KINDS:  # one model at a time, so that a small card holds it
        setting.free()
        built = model(kind, size, text, setting).train()
        if compiled:
            built.compile_repeated_blocks()
        took = setting.alternate({"step": step(built, batch, setting), "peak": peak_product(setting)})
        seconds[kind] = took["step"]
        figures |= {f"{kind}, {name}": value for name, value in rates(built, batch, took, setting).items()}
        del built
    return {"time of a step, MoT over dense": seconds["mot"] / seconds["dense"], **figures}


def full_rows(text: Modality, length: int, setting: Setting) -> PackedBatch:
    """Rows that documents of a caption and a picture fill as far as whole ones do."""
    count = setting.pick(24, 2)
    assert text.vocab_size is not None
    return pack(documents(count, text.vocab_size, setting), [text, image_tokenizer(setting).modality], length, ROWS)


def step(built: MultimodalModel, batch: PackedBatch, setting: Setting) -> Callable[[], None]:
    """One step over a batch that is on the device: training corrupts and sends the next one while a step runs."""
    optimizer = torch.optim.AdamW(built.parameters(), lr=1e-4, fused=True)
    noisy, targets = built.corrupt(batch)
    wanted = built.supervise(noisy, targets)
    factors = {name: 1 / count for name, count in wanted.counts.items() if count}
    noisy, wanted = noisy.to(setting.device), wanted.to(setting.device)

    def action() -> None:
        with torch.autocast(setting.device.type, torch.bfloat16, enabled=setting.on_gpu):
            losses = built(noisy, wanted, factors)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return action


def peak_product(setting: Setting) -> Callable[[], object]:
    side = setting.pick(SIDE, 128)
    factors = torch.randn(2, side, side, device=setting.device, dtype=setting.dtype)
    return lambda: factors[0] @ factors[1]


def rates(built: MultimodalModel, batch: PackedBatch, took: dict[str, float], setting: Setting) -> dict[str, float]:
    """took: seconds of a step and of the product that sets the peak."""
    peak = 2 * setting.pick(SIDE, 128) ** 3 / took["peak"]
    made = 3 * forward_flops(built, batch) / took["step"]
    found = {"MFU": made / peak, "TFLOP/s": made / 1e12, "tokens a second": batch.tokens / took["step"]}
    if setting.on_gpu:
        found["peak memory, GiB"] = torch.cuda.max_memory_allocated(setting.device) / 2**30
    return found
