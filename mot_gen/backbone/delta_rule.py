"""The gated delta rule of Kimi Delta Attention (arXiv 2510.26692): delta_rule, by_steps, and what they are made of.

    S_t = diag(e^{g_t}) S_{t-1};    S_t = S_t + beta_t k_t (v_t - k_t^T S_t)^T;    o_t = q_t^T S_t / sqrt(K)

with S = 0 before a token that starts anew. `by_steps` is the definition. `delta_rule` takes C tokens at once: what they
write solves a triangular system, and between them every decay is the exponential of a sum, never a quotient, so that no
length and no decay overflows.

Shapes: B rows, H heads, S steps, C steps of a chunk, K width of keys, V of values. q, k, g (B, H, S, K),
v (B, H, S, V), beta (B, H, S), start (B, S) bool, the state (B, H, K, V).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK = 16


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, start: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """o (B, H, S, V), and the state after the last step, in fp32 or fp64."""
    given = [t.to(torch.promote_types(t.dtype, torch.float32)) for t in (q, k, v, g, beta)]
    with torch.autocast(q.device.type, enabled=False):
        return _in_chunks(given, start, state)


def _in_chunks(given: Sequence[Tensor], start: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    q = given[0]
    outputs = []
    for first in range(0, q.shape[2], CHUNK):
        steps = slice(first, first + CHUNK)
        parts = [t[:, :, steps] for t in given]
        out, state = _chunk(parts, start[:, steps], state)
        outputs.append(out)
    return torch.cat(outputs, 2) * q.shape[-1] ** -0.5, state


def _chunk(parts: Sequence[Tensor], start: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    q, k, v, g, beta = parts
    begun = start.long().cumsum(1)  # how many documents have begun in the chunk
    same = (begun[:, :, None] == begun[:, None])[:, None]
    old = (begun == 0)[:, None, :, None]  # tokens of the document that the state belongs to
    total = g.cumsum(2)
    decay = torch.exp((total[:, :, :, None] - total[:, :, None]).clamp_max(0))  # (B, H, C, C, K)
    among_keys = pairs(k, k, decay).tril(-1) * same * beta[..., None]
    reading = total.exp() * old
    written = solve(among_keys, beta[..., None] * (v - (k * reading) @ state))
    out = (q * reading) @ state + (pairs(q, k, decay).tril() * same) @ written
    last = (begun == begun[:, -1:])[:, None, :, None]
    left = (total[:, :, -1:] - total).exp() * last
    kept = total[:, :, -1].exp() * old[:, :, -1]
    return out, kept[..., None] * state + (k * left).transpose(2, 3) @ written


def pairs(a: Tensor, b: Tensor, decay: Tensor) -> Tensor:
    """a, b (B, H, C, K) -> (B, H, C, C), the products of all pairs, decayed channel by channel."""
    return (a[:, :, :, None] * b[:, :, None] * decay).sum(-1)


def solve(among_keys: Tensor, wanted: Tensor) -> Tensor:
    """u (B, H, C, V) of (1 + among_keys) u = wanted; among_keys is strictly lower triangular."""
    return torch.linalg.solve_triangular(among_keys, wanted, upper=False, unitriangular=True)


def by_steps(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, start: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The same, step by step."""
    outputs = []
    for step in range(q.shape[2]):
        state = state.masked_fill(start[:, step, None, None, None], 0.0)
        state = state * g[:, :, step, :, None].exp()
        key = k[:, :, step, :, None]
        error = v[:, :, step] - (key * state).sum(2)
        state = state + beta[:, :, step, None, None] * key * error[:, :, None]
        outputs.append((q[:, :, step, :, None] * state).sum(2))
    return torch.stack(outputs, 2) * q.shape[-1] ** -0.5, state
