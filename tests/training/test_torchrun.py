"""The command as it is typed: torchrun, two processes, a request to stop, and the rest on one."""

import json
import os
import time
from pathlib import Path

from forks import FORKS
from rank_jobs import TINY
from torch.distributed.run import main

from mot_gen.recipes.recipe import load_recipe
from mot_gen.training import checkpoint
from mot_gen.training.loop import train

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 400  # seconds, on a machine that others use


def test_torchrun_stops_on_request_and_goes_on_anywhere(tmp_path):
    folder, recipe = tmp_path / "run", ["digits", *TINY, "training.checkpoint_every=1000"]
    words = ["--standalone", "--nproc-per-node", "2", "-m", "mot_gen", "train", *recipe]
    words += ["training.parallel=fsdp", "training.steps=100000", "--out", str(folder)]
    running = FORKS.Process(target=torchrun, args=(words, tmp_path / "errors"))
    running.start()
    try:
        started = time.monotonic()
        while lines(folder) < 3 and time.monotonic() - started < LIMIT and running.is_alive():
            time.sleep(0.1)
        running.terminate()
        running.join(LIMIT)
    finally:
        running.kill()
    errors = (tmp_path / "errors").read_text()
    assert errors.count("mot-gen: stopped at step ") == 1 and "go on with --resume" in errors
    stopped = checkpoint.load(checkpoint.latest_good(folder)).step
    assert stopped >= 3
    train(load_recipe("digits", [*recipe[1:], f"training.steps={stopped + 2}"]), folder, resume=True)
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in written] == list(range(1, stopped + 3))


def torchrun(words: list[str], errors: Path) -> None:
    """The command of that name, as a process of its own; the two that it starts are fresh interpreters."""
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    main(words)


def lines(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0
