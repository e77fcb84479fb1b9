"""Half storage, for generation on a CPU: HalfStorage, Projection, store_in_half, has_fbgemm.

A projection keeps its matrices once more, in fp16 as FBGEMM packs them, and multiplies in fp32. A product of one token
is bound by reading the matrix, of which these are half the bytes; and of many tokens, too, FBGEMM's products are faster
than MKL's on a CPU that is not Intel's. Only the matrices are rounded, to 11 significant bits; what flows through the
model stays fp32.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mot_gen.backbone.storage.byte_storage import ByteMatrix
from mot_gen.errors import InputError

# Multiplications for which it does not pay to wake other threads.
FEW = 2**23


class HalfMatrix:
    """A matrix (out, in) in fp16: called with x (..., in) it returns (..., out). It never changes.

    PyTorch has two ways to FBGEMM. One shares a product among threads, and takes 10 us more to be called; the other
    does neither, and of few tokens those 10 us, or the waking of threads, would be half of the time.
    """

    def __init__(self, weight: Tensor):
        self.out_features = len(weight)
        self.shared = torch.ops.quantized.linear_prepack_fp16(weight, None)
        self.alone = _pack_for_one_thread(weight) if weight.numel() < FEW else None

    def __call__(self, x: Tensor) -> Tensor:
        if self.alone is None:
            return torch.ops.quantized.linear_dynamic_fp16(x, self.shared)
        if x.numel() * self.out_features < FEW or torch.get_num_threads() == 1:
            return torch.fbgemm_linear_fp16_weight_fp32_activation(x, self.alone, None)
        return torch.ops.quantized.linear_dynamic_fp16(x, self.shared)


def _pack_for_one_thread(weight: Tensor) -> Tensor:
    # PyTorch warns, once in a process, that this way will go in some later version; then the other will serve alone.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packed = torch.fbgemm_pack_gemm_matrix_fp16(weight)
        torch.fbgemm_linear_fp16_weight_fp32_activation(weight.new_zeros(1, weight.shape[1]), packed, None)
    return packed


class HalfStorage(nn.Module):
    """A projection that may be held in half storage, or in 8 bits. halves: its matrices, one a tower, or None; they
    serve wherever no gradient is wanted. Whatever may change the weights ends it: training, a cast, a move, a state
    that is loaded; and a copy begins without."""

    weight: Tensor
    halves: Sequence[HalfMatrix | ByteMatrix] | None = None

    @property
    def in_half(self) -> bool:
        """Whether a product goes to the matrices in fp16, or in 8 bits, now."""
        return self.halves is not None and not torch.is_grad_enabled()

    def train(self, mode: bool = True):
        self.halves = None if mode else self.halves
        return super().train(mode)

    def _apply(self, *args, **kwargs):
        super()._apply(*args, **kwargs)
        if not _in_fp32_on_a_cpu(self.weight):
            self.halves = None
        return self

    def _load_from_state_dict(self, *args, **kwargs):
        self.halves = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "halves"}


class Projection(HalfStorage, nn.Linear):
    """`nn.Linear` without a bias, that may be held in half storage."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.halves is not None and self.in_half:
            return self.halves[0](x)
        return super().forward(x)


@torch.no_grad()
def store_in_half(module: nn.Module) -> None:
    """Hold every `HalfStorage` of a module in fp16, as its weights are now. InputError unless they are in fp32 on a CPU
    for which PyTorch has FBGEMM (x86 with AVX2)."""
    layers = [layer for layer in module.modules() if isinstance(layer, HalfStorage)]
    for weight in (layer.weight for layer in layers):
        if not _in_fp32_on_a_cpu(weight):
            found = f"{weight.dtype} on {weight.device}".removeprefix("torch.")
            raise InputError(f"half storage: is for float32 on the CPU, and the model is {found}; on a GPU, cast it")
    if not has_fbgemm():
        raise InputError("half storage (fp16 on a CPU): this PyTorch has no FBGEMM for this CPU; use fp32 or bf16")
    for layer in layers:
        layer.halves = [HalfMatrix(matrix) for matrix in layer.weight.view(-1, *layer.weight.shape[-2:])]


def _in_fp32_on_a_cpu(weight: Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.device.type == "cpu"


def has_fbgemm() -> bool:
    """Whether half storage can be had here."""
    return "fbgemm" in torch.backends.quantized.supported_engines
