"""Attention that learns on a CPU, fused and by products: `python -m benchmarks.attention_bf16`, JSON a line.

Milliseconds of CPU of a forward and a backward pass, 4 heads of 64, documents of 27 tokens, one thread, in alternation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import alternate
from mot_gen.backbone.attention import _attend_by_products


def passes(attend: Callable[..., Tensor], inputs: list[Tensor], mask: Tensor) -> None:
    attend(*inputs, mask).sum().backward()


def run() -> Iterator[dict]:
    for rows, length in ((32, 128), (16, 256), (8, 512)):
        document, index = torch.arange(length) // 27, torch.arange(length)
        visible = (document[:, None] == document) & (index[:, None] >= index)
        for dtype in (torch.bfloat16, torch.float32):
            inputs = [torch.randn(rows, 4, length, 64, dtype=dtype).requires_grad_() for _ in range(3)]
            mask = torch.zeros(rows, 1, length, length, dtype=dtype).masked_fill(~visible, float("-inf"))
            actions = {
                "fused": lambda i=inputs, m=mask: passes(F.scaled_dot_product_attention, i, m),
                "products": lambda i=inputs, m=mask: passes(_attend_by_products, i, m),
            }
            seconds = alternate(actions, 5)
            yield {"rows": rows, "length": length, "dtype": str(dtype), **{k: 1e3 * v for k, v in seconds.items()}}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in run():
        print(json.dumps(line))
