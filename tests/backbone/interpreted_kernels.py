"""Run with TRITON_INTERPRET=1: values of the fused kernels on the CPU beside those of the plain functions."""

import torch
import torch.nn.functional as F

from mot_gen.backbone import fused_gate, fused_turn, one_tower
from mot_gen.backbone.gates import plain_gate
from mot_gen.backbone.rotary import rotary, rotary_frequencies


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """To rounding: of bf16, which keeps 8 bits, by at most one in the last."""
    rough = found.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted, atol=1e-2 if rough else 2e-6, rtol=1e-2 if rough else 2e-6)


def gates(dtype: torch.dtype, tokens: int) -> None:
    given = torch.randn(tokens, 2 * 24).to(dtype)
    grad = torch.randn(tokens, 24).to(dtype)
    results = []
    for function in (fused_gate.gate, plain_gate):
        x = given.clone().requires_grad_()
        y = function(x)
        y.backward(grad)
        results.append((y.detach(), x.grad))
    for found, wanted in zip(*results):
        close(found, wanted)
    if dtype == torch.float32:
        gate, up = given.chunk(2, 1)
        close(results[0][0], F.silu(gate) * up)


def turns(dtype: torch.dtype, normed: bool, width: int) -> None:
    tokens, heads, kv_heads = 5, 4, 2
    qkv = torch.randn(tokens, heads + 2 * kv_heads, width).to(dtype)
    angles = torch.view_as_complex(rotary(torch.arange(3, 3 + tokens), rotary_frequencies(width, 10_000.0)))
    weight = torch.rand(heads + kv_heads, width) + 0.5 if normed else None
    results = []
    for function in (fused_turn.turn, one_tower.plain_turn):
        own = qkv.clone()
        function(own.narrow(1, 0, heads + kv_heads), angles, weight, 1e-5)
        results.append(own)
    close(*results)
    assert torch.equal(results[0][:, heads + kv_heads :], qkv[:, heads + kv_heads :])  # values are left alone


if __name__ == "__main__":
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        for tokens in (1, 50):
            gates(dtype, tokens)
        for normed in (True, False):
            turns(dtype, normed, 16)
        turns(dtype, True, 24)
