"""Weights held in 8 bits, for generation on a CPU: ByteMatrix, a whole number from -127 to 127 for each weight and a
scale for each row. What is computed stays fp32.

The numbers are nested (D2MoE, arXiv 2504.15299): their top bits alone are the same matrix, more coarsely.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Rows that are made fp32 at once: so many that the product is worth its call, so few that they stay in the cache.
ROWS = 128
BITS = 8


class ByteMatrix:
    """A matrix (out, in) in 8 bits: called with x (..., in) it returns (..., out). bits: how many of them are in use,
    the top ones; what is held never changes.

    A weight is off by at most half a step, 1 / 254 of the largest number of its row, and with b bits in use by 2^(8-b)
    times as much. Of many tokens a product takes about as long as in fp32, of a single one about twice as long: it must
    be made fp32 first, piece by piece.
    """

    def __init__(self, weight: Tensor):
        rows = weight.float()
        self.scale = rows.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        self.values = (rows / self.scale[:, None]).round_().to(torch.int8)
        self.bits = BITS

    def __call__(self, x: Tensor) -> Tensor:
        y = torch.cat([x.float() @ self._numbers(rows).t() for rows in self.values.split(ROWS)], dim=-1)
        return (y * self.scale).to(x.dtype)

    def _numbers(self, rows: Tensor) -> Tensor:
        """Rows of the numbers in fp32; of those with the same top bits the one in the middle."""
        spare = BITS - self.bits
        if not spare:
            return rows.float()
        step = 2**spare
        return (rows >> spare).float() * step + (step - 1) / 2

    def whole(self) -> Tensor:
        """(out, in) in fp32, by the bits in use."""
        return self._numbers(self.values) * self.scale[:, None]
