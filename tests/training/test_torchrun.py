"""The command as it is typed: torchrun, two processes, a request to stop, and the rest on one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from rank_jobs import TINY

from mot_gen.recipes.recipe import load_recipe
from mot_gen.training import checkpoint
from mot_gen.training.loop import train

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 400  # seconds, on a machine that others use


def test_torchrun_stops_on_request_and_goes_on_anywhere(tmp_path):
    folder, recipe = tmp_path / "run", ["digits", *TINY, "training.checkpoint_every=1000"]
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mot_gen"]
    words += ["train", *recipe, "training.parallel=fsdp", "training.steps=100000", "--out", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        started = time.monotonic()
        while lines(folder) < 3 and time.monotonic() - started < LIMIT and running.poll() is None:
            time.sleep(0.1)
        running.send_signal(signal.SIGTERM)
        _, errors = running.communicate(timeout=LIMIT)
    finally:
        running.kill()
    assert errors.count("mot-gen: stopped at step ") == 1 and "go on with --resume" in errors
    stopped = checkpoint.load(checkpoint.latest_good(folder)).step
    assert stopped >= 3
    train(load_recipe("digits", [*recipe[1:], f"training.steps={stopped + 2}"]), folder, resume=True)
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in written] == list(range(1, stopped + 3))


def lines(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0
