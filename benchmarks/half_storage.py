"""The products of half storage beside others: those of a token's way through 512 x 8, on one thread.

Seconds of process CPU time of 32 matrices, 25 million weights in all, for 1, 8 and 64 tokens: fp32 as a model has them,
stored column by column, cast to bf16, cast to fp16; over those of half storage
(mot_gen/backbone/storage/half_storage.py).
"""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks import alternate
from mot_gen.backbone.storage.half_storage import HalfMatrix

LAYERS, SHAPES = 8, [(1536, 512), (512, 512), (2816, 512), (512, 1408)]  # qkv, out, gate and up, down
TOKENS = (1, 8, 64)


@torch.inference_mode()
def run(repeats: int = 30) -> Iterator[dict]:
    weights = [torch.randn(shape) * shape[1] ** -0.5 for _ in range(LAYERS) for shape in SHAPES]
    stored = {
        "rows": weights,
        "columns": [weight.t().contiguous().t() for weight in weights],
        "bf16": [weight.to(torch.bfloat16) for weight in weights],
        "fp16": [weight.half() for weight in weights],
    }
    halves = [HalfMatrix(weight) for weight in weights]
    for tokens in TOKENS:
        inputs = [torch.randn(tokens, weight.shape[1]) for weight in weights]
        actions = {name: partial(multiply, inputs, matrices) for name, matrices in stored.items()}
        seconds = alternate({"half storage": partial(multiply_halves, inputs, halves), **actions}, repeats)
        over = {name: round(seconds[name] / seconds["half storage"], 2) for name in actions}
        yield {"tokens": tokens, "half_storage_ms": round(seconds["half storage"] * 1e3, 2), "others_over": over}


def multiply(inputs, matrices):
    for x, matrix in zip(inputs, matrices):
        F.linear(x.to(matrix.dtype), matrix)


def multiply_halves(inputs, halves):
    for x, matrix in zip(inputs, halves):
        matrix(x)
