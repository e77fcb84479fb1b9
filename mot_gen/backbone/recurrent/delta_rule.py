"""The gated delta rule of Kimi Delta Attention (arXiv 2510.26692): delta_rule, by_steps, and what they are made of.

    S_t = diag(e^{g_t}) S_{t-1};    S_t = S_t + beta_t k_t (v_t - k_t^T S_t)^T;    o_t = q_t^T S_t / sqrt(K)

with S = 0 before a token that starts anew. `by_steps` is the definition. `delta_rule` takes C tokens at once: what they
write solves a triangular system, linear in the state that the chunk begins with; between them every decay is the
exponential of a sum, never a quotient, so that no length and no decay overflows.

Shapes: B rows, H heads, S steps, N chunks of C steps, K width of keys, V of values. q, k, g (B, H, S, K),
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
    """All that does not need the state is made for all chunks at once; then the state goes from chunk to chunk."""
    steps = given[0].shape[2]
    q, k, v, g, beta = (_cut(t, 2) for t in given)  # (B, H, N, C, ...)
    begun = _cut(start, 1).long().cumsum(2)[:, None]  # how many documents have begun in the chunk
    same = begun[..., :, None] == begun[..., None, :]
    old = (begun == 0)[..., None]  # tokens of the document that the state belongs to
    total = g.cumsum(3)
    decayed = k[:, :, :, None] * torch.exp((total[:, :, :, :, None] - total[:, :, :, None]).clamp_max(0))
    among_keys, seen = (decayed @ torch.stack([k, q], -1)).unbind(-1)  # (B, H, N, C, C) each
    reading = total.exp() * old
    wanted = torch.cat([v, k * reading], -1) * beta[..., None]
    written = solve(among_keys.tril(-1) * same * beta[..., None], wanted)
    found = (seen.tril() * same) @ written
    added, corrected = written.split([v.shape[-1], k.shape[-1]], -1)
    out, read = found.split([v.shape[-1], k.shape[-1]], -1)
    left = k * (total[..., -1:, :] - total).exp() * (begun == begun[..., -1:])[..., None]
    kept = (total[..., -1, :].exp() * old[..., -1, :])[..., None]
    states = []
    for chunk in range(q.shape[2]):
        states.append(state)
        fed = added[:, :, chunk] - corrected[:, :, chunk] @ state
        state = kept[:, :, chunk] * state + left[:, :, chunk].transpose(2, 3) @ fed
    out = out + (q * reading - read) @ torch.stack(states, 2)
    return out.flatten(2, 3)[:, :, :steps] * q.shape[-1] ** -0.5, state


def _cut(x: Tensor, dim: int) -> Tensor:
    """A dimension of S steps in N chunks of C; steps that fill up the last one neither decay the state nor write."""
    more = -x.shape[dim] % CHUNK
    if more:
        x = torch.cat([x, x.new_zeros(*x.shape[:dim], more, *x.shape[dim + 1 :])], dim)
    return x.unflatten(dim, (-1, CHUNK))


def solve(among_keys: Tensor, wanted: Tensor) -> Tensor:
    """u (..., C, V) of (1 + among_keys) u = wanted; among_keys is strictly lower triangular."""
    return torch.linalg.solve_triangular(among_keys, wanted, upper=False, unitriangular=True)


def by_steps(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, start: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The same outputs and state, computed token by token."""
    outputs = []
    for step in range(q.shape[2]):
        state = state.masked_fill(start[:, step, None, None, None], 0.0)
        state = state * g[:, :, step, :, None].exp()
        key = k[:, :, step, :, None]
        error = v[:, :, step] - (key * state).sum(2)
        state = state + beta[:, :, step, None, None] * key * error[:, :, None]
        outputs.append((q[:, :, step, :, None] * state).sum(2))
    return torch.stack(outputs, 2) * q.shape[-1] ** -0.5, state
