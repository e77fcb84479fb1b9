"""`python -m benchmarks [NAME ...]`: every benchmark, or those named; one JSON object a line.

`python -m benchmarks goldens ...`, which has arguments of its own, compares with golden data: benchmarks/goldens.py.
"""

import importlib
import json
import os
import sys

NAMES = (
    "training_step", "generation", "generation_speed", "generation_peer", "generation_compiled", "half_storage",
    "backbones", "data_loading", "memory", "eval_frechet", "eval_loops", "eval_update", "corpus", "tokenizers",
    "cold_start", "conversion", "published_step", "lora_step", "relatives", "rollouts", "logits_memory",
    "drafted", "solvers",
)  # fmt: skip


def main() -> None:
    # Before torch is imported: waiting threads would take the time of those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.argv[1:2] == ["goldens"]:
        os.environ["OMP_NUM_THREADS"] = "1"
        sys.exit(importlib.import_module("benchmarks.goldens").main(sys.argv[2:]))
    import torch

    torch.set_num_threads(1)
    for name in sys.argv[1:] or NAMES:
        if name not in NAMES:
            sys.exit(f"benchmarks: {name!r} is not one of {', '.join(NAMES)}")
        for result in importlib.import_module(f"benchmarks.{name}").run():
            print(json.dumps({"benchmark": name, **result}), flush=True)


if __name__ == "__main__":
    main()
