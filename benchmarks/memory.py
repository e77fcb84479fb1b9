"""The peak memory of training over what `mot-gen plan` predicts: of steps alone, and of whole runs.

Runs are those of shipped recipes, cut short: their `memory_bytes` over the `resident_bytes` of the plan, which counts
the process itself. Steps are measured in processes that are forked behind the imports and a small step, so that what
libraries hold is in none of the figures; each makes two steps as in `training_step` and reads its peak from Linux's
/proc.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.training_step import IMAGE, TEXT, document, step
from mot_gen.model import MultimodalModel
from mot_gen.packing import pack
from mot_gen.recipes.sections import Training
from mot_gen.study.memory import training_memory

CASES = [("dense", 256, 6, 8), ("mot", 256, 6, 8), ("mot", 384, 4, 8), ("mot", 256, 4, 16), ("moe4x", 256, 4, 8)]


RECIPES = ("digits", "shortcut", "show-o", "transfusion", "chameleon")
SHORT = ("training.steps=30", "training.log_every=10", "training.warmup_steps=1", "evaluation.report=false")


def run() -> Iterator[dict]:
    """measured_over_predicted of each recipe, then peak_over_predicted of steps."""
    for recipe in RECIPES:
        predicted, measured = planned(recipe), trained(recipe)
        yield {
            "recipe": recipe,
            "predicted_mib": round(predicted / 2**20),
            "measured_mib": round(measured / 2**20),
            "measured_over_predicted": measured / predicted,
        }
    yield from steps()


def planned(recipe: str) -> int:
    """What `mot-gen plan` says that the process of a run will hold."""
    return json.loads(command("plan", recipe, *SHORT, "--json"))["resident_bytes"]


def trained(recipe: str) -> int:
    """The largest memory that a short run logged. Its tokenizer is trained for one step."""
    with tempfile.TemporaryDirectory() as folder:
        quick = ["tokenizers.image.train.steps=1"] if recipe in ("show-o", "transfusion", "chameleon") else []
        command("train", recipe, *SHORT, *quick, "--out", folder)
        lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return max(json.loads(line)["memory_bytes"] for line in lines)


def command(*words: str) -> str:
    """What the command prints, in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "mot_gen", *words], capture_output=True, text=True, check=True)
    return done.stdout


def steps() -> Iterator[dict]:
    """peak_over_predicted of each backbone, width, depth and number of rows of 192."""
    measure("mot", 64, 1, 1)
    for kind, dim, layers, rows in CASES:
        predicted, peak = in_a_fork(lambda case=(kind, dim, layers, rows): measure(*case))
        shape = {"backbone": kind, "dim": dim, "layers": layers, "rows": rows}
        yield {**shape, "predicted_mib": round(predicted / 2**20), "peak_over_predicted": peak / predicted}


def measure(kind: str, dim: int, layers: int, rows: int) -> tuple[int, int]:
    """Bytes predicted, and the peak beyond what the process held before."""
    batch = pack([document() for _ in range(2 * rows)], [TEXT, IMAGE], 192)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    backbone = {"kind": kind, "dim": dim, "layers": layers, "heads": 8}
    built = MultimodalModel([vars(TEXT), vars(IMAGE)], backbone).train()
    action = step(built, batch)
    action()
    action()
    return training_memory(built, [batch], Training()), memory("VmHWM") - before


def memory(field: str) -> int:
    """Bytes, from the status of this process."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(rf"{field}:\s+(\d+) kB", status).group(1)) * 1024


def in_a_fork(action) -> list[int]:
    """What `action` returns, a few integers, from a process of its own."""
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            os.write(write, " ".join(map(str, action())).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.wait()
    with os.fdopen(read) as answer:
        return [int(number) for number in answer.read().split()]
