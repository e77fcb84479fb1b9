"""Two processes over NCCL, on two GPUs, beside one: the same recipe gives the same losses."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.gpu.rows import Figures
from benchmarks.gpu.setting import Setting, Skipped

ROOT = Path(__file__).resolve().parents[2]
STEPS = 30
RECIPE = ["digits", f"training.steps={STEPS}", "training.warmup_steps=2", "training.log_every=1"]
RECIPE += ["training.sample_every=0", "training.checkpoint_every=1000"]
RECIPE += ["training.compile=false"]  # else most of the time would be the compiler's
PATIENCE = 600  # seconds for a run
AGREES = 1e-2  # of a loss: sums are made in another order


def two_processes(setting: Setting) -> Figures:
    """By DDP and by FSDP2. AssertionError where the losses of the last step are not those of one process."""
    found = torch.cuda.device_count()
    if found < 2:
        raise Skipped(f"it needs two GPUs, and this machine has {found}")
    return compared(setting)


def compared(setting: Setting) -> Figures:
    device = f"training.device={setting.device.type}"
    alone = last_line([sys.executable, "-m", "mot_gen", "train", *RECIPE, device])
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mot_gen"]
    figures: dict[str, float | str] = {}
    for parallel in ("ddp", "fsdp"):
        both = last_line([sys.executable, *launcher, "train", *RECIPE, device, f"training.parallel={parallel}"])
        worst = max(abs(both["losses"][name] / loss - 1) for name, loss in alone["losses"].items())
        assert worst < AGREES, f"{parallel}: losses of step {STEPS} differ from those of one process by {worst:.2%}"
        figures[f"{parallel}: largest relative difference of losses after {STEPS} steps"] = worst
        figures[f"{parallel}: time of two processes over one"] = both["seconds"] / alone["seconds"]
    return figures


def last_line(command: list[str]) -> dict:
    """The last line of metrics.jsonl of a run."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = [*command, "--out", str(out)]
        ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
        if ended.returncode:
            raise RuntimeError(f"{' '.join(command[1:])} ended with {ended.returncode}: {ended.stderr.strip()[-300:]}")
        return json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
