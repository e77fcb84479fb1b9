"""The pretended device itself: values, gradients, refusals, waits and kernels are those that CUDA would show."""

import pytest
import torch
import torch.nn.functional as F
from pretended import DeviceMismatch, pretended_cuda
from torch import nn


def test_values_and_gradients_are_those_of_the_cpu():
    layer, x = nn.Linear(8, 8), torch.randn(3, 8)
    F.gelu(layer(x)).square().sum().backward()
    expected = layer.weight.grad
    layer.weight.grad = None
    with pretended_cuda():
        weight = layer.weight
        layer.to("cuda")
        assert layer.weight is weight and weight.is_cuda
        F.gelu(layer(x.to("cuda"))).square().sum().backward()
        assert weight.grad.device == torch.device("cuda", 0)
        assert torch.equal(weight.grad.cpu(), expected)


def test_what_cuda_refuses_is_refused():
    with pretended_cuda():
        x = torch.ones(4, device="cuda")
        assert (x + torch.tensor(1.0)).sum().item() == 8  # a scalar may be on the CPU
        with pytest.raises(DeviceMismatch, match="on the CPU beside cuda"):
            x + torch.ones(4)
        with pytest.raises(DeviceMismatch, match="on the CPU beside cuda"):
            F.embedding(torch.tensor([1]), torch.ones(3, 4, device="cuda"))
        with pytest.raises(DeviceMismatch, match="generator on cpu"):
            torch.randn(3, generator=torch.Generator(), device="cuda")
        with pytest.raises(TypeError, match="can't convert cuda"):
            x.numpy()
        ends = torch.tensor([1, 4], dtype=torch.int32, device="cuda")
        with pytest.raises(DeviceMismatch, match="grouped_mm"):
            F.grouped_mm(torch.ones(4, 8, device="cuda"), torch.ones(2, 8, 8, device="cuda"), offs=ends)


def test_waits_are_counted_by_kind():
    with pretended_cuda() as launches:
        x = torch.ones(4).to("cuda")
        x.to("cuda")  # is there already
        torch.ones(4).pin_memory().to("cuda", non_blocking=True)
        x[x > 0].sum().item()
        x.cpu()
    assert {kind: times for (kind, *_), times in launches.waits.items()} == {
        "copy to the device": 1,
        "asynchronous copy": 1,
        "boolean index": 1,
        "result on the host": 1,
        "copy from the device": 1,
    }
    assert launches.waited == 4
    launches.clear()
    assert launches.waited == launches.launched == 0


def test_kernels_are_counted_and_views_are_none():
    with pretended_cuda() as launches:
        x = torch.ones(2, 2, 4, 8, device="cuda")
        launches.clear()
        x.transpose(1, 2)[0].unsqueeze(0).detach()
        assert launches.launched == 0
        F.scaled_dot_product_attention(x, x, x)
        torch._foreach_norm([x, x])
        (x + x).mul_(2)
    assert launches.kernels == {"scaled_dot_product_attention": 1, "_foreach_norm": 1, "add": 1, "mul_": 1}


def test_autocast_computes_products_in_bf16():
    with pretended_cuda(), torch.autocast("cuda", torch.bfloat16):
        x = torch.ones(2, 8, device="cuda")
        y = F.linear(x, x)
        assert y.dtype == torch.bfloat16
        assert F.softmax(y, -1).dtype == torch.float32
