"""What PyTorch and this package find in the place of a CUDA driver: what `torch.cuda` says, FlexAttention, and where
tensors of the device need another way than PyTorch's own. `pretended.py` puts it there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils import _foreach_utils

from mot_gen.backbone import attention, one_tower
from mot_gen.backbone import fused as own_kernels
from mot_gen.training import world

GIB = 2**30


def _flex(q: Tensor, k: Tensor, v: Tensor, *, block_mask=None, enable_gqa: bool = False, scale=None, **_) -> Tensor:
    """FlexAttention as SDPA with the mask that its rule gives."""
    b, i, j = (torch.arange(n, device=q.device) for n in (q.shape[0], q.shape[2], k.shape[2]))
    seen = block_mask.mask_mod(b[:, None, None, None], None, i[:, None], j)
    return as_stored(F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=enable_gqa, scale=scale))


def _gate(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


def as_stored(found: Tensor) -> Tensor:
    """What attention finds, (B, H, Q, D), as CUDA's kernels store it: the heads of a token stand together."""
    return found.transpose(1, 2).contiguous().transpose(1, 2)


def _swapping(apply: Callable) -> Callable:
    """`nn.Module._apply` after which a Parameter that moved is the same object, as on CUDA."""

    def swap(self, change, *args, **kwargs):
        # One that is read elsewhere, through a view, cannot be exchanged; where nothing changes it need not be.
        moves = any(_kind(change(own)) != _kind(own) for own in [*self.parameters(recurse=False)][:1])
        with mock.patch.object(torch.__future__, "get_swap_module_params_on_conversion", lambda: moves):
            return apply(self, change, *args, **kwargs)

    return swap


def _kind(x: Tensor) -> tuple:
    return x.device, x.dtype


def _enter_inference(self) -> None:
    """Inference mode as no_grad: the real one leaves out the dispatch keys that this file needs."""
    self.grad = torch.is_grad_enabled()
    torch.set_grad_enabled(self.grad and not self.mode)


def _leave_inference(self, *_) -> None:
    torch.set_grad_enabled(self.grad)


def _answer(value: Any) -> Callable:
    return lambda *args, **kwargs: value


def _cuda() -> dict[str, Any]:
    """What `torch.cuda` says."""
    nothing = ("_lazy_init", "synchronize", "set_device", "set_rng_state", "manual_seed", "manual_seed_all")
    answers: dict[str, Any] = dict.fromkeys((*nothing, "empty_cache", "reset_peak_memory_stats"))
    answers |= dict.fromkeys(("is_available", "is_initialized", "is_bf16_supported"), True)
    answers |= dict.fromkeys(("current_device", "_exchange_device", "_maybe_exchange_device"), 0)
    answers |= {"device_count": 1, "max_memory_allocated": GIB, "memory_allocated": GIB}
    answers |= {"mem_get_info": (80 * GIB, 80 * GIB), "is_current_stream_capturing": False}
    answers |= {"get_rng_state": torch.zeros(16, dtype=torch.uint8), "get_device_capability": (9, 0)}
    answers |= {"get_device_name": "pretended", "current_stream": mock.MagicMock()}
    functions: dict[str, Any] = {name: _answer(value) for name, value in answers.items()}
    return functions | {name: mock.MagicMock() for name in ("Stream", "Event", "stream")}


def replaced(tensor: type, generator: type, fused: Callable) -> list[tuple[Any, str, Any]]:
    """(owner, name, what stands in its place) while the device is there, whose tensors and generators are of these
    classes. fused: (name, function) -> the function as one kernel of that name, as compiled programs are."""
    return [
        *((torch.cuda, name, value) for name, value in _cuda().items()),
        (torch.accelerator, "is_available", lambda: True),
        (torch.accelerator, "current_accelerator", lambda *args, **kwargs: torch.device("cuda")),
        (world, "_no_driver", lambda: False),
        (torch, "Generator", generator),
        (torch.inference_mode, "__enter__", _enter_inference),
        (torch.inference_mode, "__exit__", _leave_inference),
        (torch.nn.Module, "_apply", _swapping(torch.nn.Module._apply)),
        (_foreach_utils, "_foreach_supported_types", [*_foreach_utils._foreach_supported_types, tensor]),
        (attention, "_flex_attention", lambda compiled: fused("flex_attention", _flex)),
        (attention, "_create_block_mask", lambda compiled: fused("create_block_mask", create_block_mask)),
        (own_kernels, "gate", fused("gate", _gate)),
        (own_kernels, "turn", fused("turn", one_tower.plain_turn)),
    ]
