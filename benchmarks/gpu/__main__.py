"""`python -m benchmarks.gpu [--quick] [--device cuda] [--out docs/gpu.md]`: measure on a GPU and write one page.

A JSON object a line as measurements end, then the page. Exit code 1 where a measurement failed, 2 without a GPU.
`--quick` takes tiny sizes, which test the command and also run with `--device cpu`; its page is another one.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

PAGE, QUICK_PAGE = Path("docs/gpu.md"), Path("build/gpu-quick.md")
SIZES = ("443M", "760M")


def main(arguments: Sequence[str] | None = None) -> int:
    asked = parser().parse_args(arguments)
    # Before torch is imported: waiting threads would take the time of those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    if asked.device == "cpu" and not asked.quick:
        return refused("--device cpu measures nothing that counts; add --quick, which tests the command")
    if asked.device == "cuda" and not torch.cuda.is_available():
        return refused("no CUDA device is found; say --quick --device cpu to test the command without one")
    out = asked.out or (QUICK_PAGE if asked.quick else PAGE)
    if asked.quick and out.resolve() == PAGE.resolve():
        return refused(f"--out {out}: a quick run measures nothing; give another file")
    return measure(torch.device(asked.device), asked.quick, out)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Measure what only a GPU can show.")
    found.add_argument("--quick", action="store_true", help="tiny sizes: a test of the command")
    found.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    found.add_argument("--out", type=Path, help=f"the page to write ({PAGE}; with --quick {QUICK_PAGE})")
    return found


def refused(reason: str) -> int:
    print(f"benchmarks.gpu: {reason}", file=sys.stderr)
    return 2


def measure(device, quick: bool, out: Path) -> int:
    """Make every row, then the page."""
    from benchmarks.gpu.page import written
    from benchmarks.gpu.rows import measured
    from benchmarks.gpu.setting import Setting

    setting, rows = Setting(device, quick), []
    for title, measurement in measurements(quick).items():
        row = measured(title, measurement, setting)
        print(json.dumps(vars(row)), flush=True)
        rows.append(row)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(written(rows, setting), encoding="utf-8")
    print(f"benchmarks.gpu: wrote {out}", file=sys.stderr)
    return int(any(row.error for row in rows))


def measurements(quick: bool) -> dict:
    """Title of a row -> what gives it, a function of the setting. A quick run trains one size: all would be tiny."""
    from benchmarks.gpu import attention, budgets, features, generation, graphs, kernels, processes, products, training

    found = {
        "FlexAttention beside SDPA": attention.attention,
        "Grouped products beside products by tower": products.products,
        "Our own kernels beside plain functions": kernels.kernels,
        "CUDA graphs beside kernels one by one": graphs.graphs,
        "Budget of a training step": budgets.training_budget,
        "Budget of a decoded token and a denoising step": budgets.generation_budget,
    }
    for size in SIZES[:1] if quick else SIZES:
        found[f"Training at {size}"] = partial(training.training, size, False)
        found[f"Training at {size}, compiled blocks"] = partial(training.training, size, True)
    return found | {
        "Pictures beside diffusers": partial(generation.images, SIZES[0]),
        "Texts beside transformers": partial(generation.tokens, SIZES[0]),
        "FID's features beside torch-fidelity": features.features,
        "Two processes over NCCL": processes.two_processes,
    }


if __name__ == "__main__":
    sys.exit(main())
