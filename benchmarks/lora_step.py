"""A training step of adapters (LoRA) over one in which every weight learns: CPU time, and memory.

Towers for text and images, 16 rows of 128, rank 8 on both towers, in the shipped model's shape (256 x 6) and in a
larger one (512 x 8); beside all layers, and beside all but the first two. A step is all that training does: the batch,
forward, backward, clipping, AdamW and the averaged weights. Times are CPU seconds of alternating steps in one process.
Memory is what a process of its own has at most, less what it has before the model is built.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import alternate
from benchmarks.memory import memory
from mot_gen.recipes.recipe import Recipe, load_recipe
from mot_gen.training.loop import training_step
from mot_gen.training.runs import Run, prepare

SHAPES = {
    "256 x 6": ["backbone.dim=256", "backbone.layers=6", "backbone.heads=4", "backbone.ffn_dim=768"],
    "512 x 8": ["backbone.dim=512", "backbone.layers=8", "backbone.heads=8", "backbone.ffn_dim=1536"],
}
LORA = "backbone.lora={towers: [text, image], rank: 8, alpha: 16.0}"
KINDS = {"full": [], "lora": [LORA], "lora without the first two layers": [LORA, "training.frozen_layers=2"]}


def recipe_of(shape: str, kind: str) -> Recipe:
    """The digits in one of `SHAPES`."""
    usual = ["training.rows=16", "training.ema=0.999", "training.threads=1", "training.device=cpu"]
    options = [*SHAPES[shape], *usual, *KINDS[kind]]
    if KINDS[kind]:
        options.append("training.init=nowhere")  # a recipe of adapters has to name a checkpoint
    return load_recipe("digits", options)


def run_of(shape: str, kind: str, folder: Path) -> Run:
    """A run at step 0. Its weights are drawn, since their values do not change the time of a step."""
    recipe = recipe_of(shape, kind)
    recipe.training.init = None
    return prepare(recipe, folder / kind)


def run(repeats: int = 5) -> Iterator[dict]:
    """seconds, memory: those of adapters over those of the whole model."""
    for shape in SHAPES:
        peaks = {kind: _memory(shape, kind) for kind in KINDS}
        seconds = _seconds(shape, repeats)
        for kind in KINDS:
            yield {
                "shape": shape,
                "kind": kind,
                "seconds": seconds[kind] / seconds["full"],
                "memory": peaks[kind] / peaks["full"],
                "mebibytes": round(peaks[kind] / 2**20),
            }


def _seconds(shape: str, repeats: int) -> dict[str, float]:
    """CPU seconds of a step of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {kind: run_of(shape, kind, Path(folder)) for kind in KINDS}
        actions = {kind: lambda given=given: training_step(given) for kind, given in runs.items()}
        seconds = alternate(actions, repeats)
        for given in runs.values():
            given.close()
    return seconds


def _memory(shape: str, kind: str) -> int:
    """Bytes that steps of one kind take, in a process of their own."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.lora_step", shape, kind], capture_output=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        with torch.random.fork_rng():  # what every process has loaded by now, whatever it trains
            torch.ones(64, 64) @ torch.ones(64, 64)
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        given = run_of(sys.argv[1], sys.argv[2], Path(folder))
        for _ in range(4):
            training_step(given)
        given.close()
        print(memory("VmHWM") - before)


if __name__ == "__main__":
    main()
