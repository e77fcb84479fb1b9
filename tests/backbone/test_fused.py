"""Our Triton kernels: they compile for an H100 without a driver, give what the plain functions give, and are off."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mot_gen.backbone import fused

triton = pytest.importorskip("triton")

HERE = Path(__file__).parent
DTYPES = ["fp32", "bf16"]


def compiled(kernel, pointers: dict[str, str], numbers: dict[str, str], constants: dict) -> dict:
    """The programs of a kernel for sm_90, by their language. All the way to what the card runs."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {
        **{name: f"*{kind}" for name, kind in pointers.items()},
        **numbers,
        **dict.fromkeys(constants, "constexpr"),
    }
    types = {name: types[name] for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=types, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm


@pytest.mark.parametrize("dtype", DTYPES)
def test_they_compile_for_an_h100(dtype, tmp_path, monkeypatch):
    from mot_gen.backbone import fused_gate, fused_turn

    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    whole = {"width": "i32", "total": "i32"}
    made = [
        compiled(fused_gate.forward_kernel, dict.fromkeys(("gate_up", "made"), dtype), whole, {"BLOCK": 1024}),
        compiled(
            fused_gate.backward_kernel,
            dict.fromkeys(("gate_up", "grad", "grad_gate_up"), dtype),
            whole,
            {"BLOCK": 1024},
        ),
        compiled(
            fused_turn.turn_kernel,
            {"qk": dtype, "turns": "fp32", "weight": "fp32"},
            {"row": "i32", "eps": "fp32"},
            {"PAIRS": 32, "BLOCK": 32, "NORMS": True},
        ),
    ]
    for programs in made:
        assert ".target sm_90" in programs["ptx"] and len(programs["cubin"])


def test_they_give_what_the_plain_functions_give():
    """In Triton's interpreter, which reads its switch when Triton is imported: hence another process."""
    asked = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(HERE.parents[1])}
    subprocess.run([sys.executable, str(HERE / "interpreted_kernels.py")], env=asked, check=True, timeout=300)


def test_fused_kernels_are_off_on_a_cpu(monkeypatch):
    x = torch.ones(2, 4)
    assert not fused.is_used(x)
    fused.use()
    try:
        assert not fused.is_used(x)  # which is on the CPU
    finally:
        fused.use(False)
