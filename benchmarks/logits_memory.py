"""The peak memory of the head and its loss, some tokens at a time as in training, over that of all tokens at once.

8,192 tokens, 32,000 words, fp32, forward and backward; width 64, so that little else is held. Each of the two runs in a
process that is forked behind the imports and a small run, and reads its peak from Linux's /proc.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.memory import in_a_fork, memory
from mot_gen.learning.token_losses import Head, token_losses
from mot_gen.objectives.next_token import Objective

TOKENS, WORDS, WIDTH = 8192, 32_000, 64

Total = Callable[[nn.Linear, Tensor, Tensor], Tensor]  # head, hidden states (T, D), ids (T,) -> the sum of losses


def run() -> Iterator[dict]:
    """Bytes of either way, and their ratio."""
    torch.manual_seed(0)
    for total in (in_parts, at_once):
        peak(total, 8)
    parts, whole = (in_a_fork(lambda total=total: [peak(total, TOKENS)])[0] for total in (in_parts, at_once))
    sizes = {"in_parts_mib": round(parts / 2**20), "at_once_mib": round(whole / 2**20)}
    yield {**sizes, "in_parts_over_at_once": parts / whole}


def peak(total: Total, tokens: int) -> int:
    """The most bytes beyond what the process held before."""
    head = nn.Linear(WIDTH, WORDS, bias=False)
    hidden, ids = torch.randn(tokens, WIDTH, requires_grad=True), torch.randint(WORDS, (tokens,))
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    total(head, hidden, ids).backward()
    return memory("VmHWM") - before


def in_parts(head: nn.Linear, hidden: Tensor, ids: Tensor) -> Tensor:
    return token_losses(Head(head, [head.weight], WORDS), Objective().loss, hidden, ids, None, 1.0)[0]


def at_once(head: nn.Linear, hidden: Tensor, ids: Tensor) -> Tensor:
    return Objective().loss(head(hidden), ids).sum()
