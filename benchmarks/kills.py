"""kill -9 at random moments of a run that saves after every step, resumed each time: does it end as if undisturbed?

    python -m benchmarks.kills [--kills 20] [--processes 1] [--parallel fsdp] [--steps 120] [--apart 8]

Tiny digits. Each kill waits for 1 to `apart` steps and then for a random part of a step, so that it falls into steps
and into saves; of several processes, a random one is killed, and the others must end by themselves.
Prints one JSON object: how many kills, how many fell while a checkpoint was being written, how long survivors took to
end at most, and whether weights, averages, moments and counters are bitwise those of the undisturbed run.
"""

import argparse
import json
import multiprocessing
import os
import random
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
RECIPE = [
    "data.window=48",
    "tokenizers.text.vocab_size=270",
    "backbone.dim=32",
    "backbone.layers=2",
    "backbone.heads=2",
    "training.row_length=64",
    "training.rows=2",
    "training.checkpoint_every=1",
    "training.keep_checkpoints=2",
    "training.sample_every=0",
    "training.log_every=1",
    "training.device=cpu",
    "training.peak_flops=1e11",
]


def sitting(rank: int, size: int, port: int, folder: Path, changes: list[str]) -> None:
    """One process of one sitting: begins the run, or goes on with it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from mot_gen.errors import ProcessLost
    from mot_gen.recipes.recipe import load_recipe
    from mot_gen.training.loop import train

    recipe = load_recipe("digits", [*RECIPE, *changes])
    with suppress(ProcessLost):  # what the survivors of a kill say
        train(recipe, folder, resume=(folder / "checkpoints" / "latest").exists())


def sit(folder: Path, arguments: argparse.Namespace) -> list:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    size = arguments.processes
    changes = [f"training.parallel={arguments.parallel}", f"training.steps={arguments.steps}"]
    processes = [SERVER.Process(target=sitting, args=(rank, size, port, folder, changes)) for rank in range(size)]
    for process in processes:
        process.start()
    return processes


def lines(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def disturb(folder: Path, processes: list, rng: random.Random, apart: int) -> tuple[bool, bool, float]:
    """Kill one of the processes: whether it was still alive, whether a checkpoint was being written, and how many
    seconds the others took to end."""
    wanted = lines(folder) + rng.randint(1, apart)
    while lines(folder) < wanted and all(process.is_alive() for process in processes):
        time.sleep(0.002)
    time.sleep(rng.random() * 0.05)
    victim = rng.choice(processes)
    alive = victim.is_alive()
    victim.kill()
    saving = any((folder / "checkpoints").glob(".saving-*"))
    killed = time.monotonic()
    for process in processes:
        process.join()
    return alive, alive and saving, time.monotonic() - killed


def state_of(folder: Path) -> dict:
    from mot_gen.training import checkpoint

    saved = checkpoint.load(checkpoint.latest_good(folder))
    tensors = {f"{group}.{name}": t for group, named in saved.tensors.items() for name, t in named.items()}
    counters = {name: saved.state["counters"][name] for name in ("tokens", "flops")}
    return {"tensors": tensors, "rest": (saved.step, counters, saved.state["loader"], saved.state["optimizer"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--parallel", default="fsdp")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--apart", type=int, default=8)
    arguments = parser.parse_args()
    SERVER.set_forkserver_preload(["mot_gen.training.loop", "mot_gen.datasets.digits", "torch._dynamo.distributed"])
    rng, folder = random.Random(0), Path(tempfile.mkdtemp())
    for process in sit(folder / "undisturbed", arguments):
        process.join()
    kills = in_saves = 0
    longest = 0.0
    while kills < arguments.kills:
        begun = sit(folder / "killed", arguments)
        alive, saving, seconds = disturb(folder / "killed", begun, rng, arguments.apart)
        kills, in_saves, longest = kills + alive, in_saves + saving, max(longest, seconds)
        if not alive:
            break
    for process in sit(folder / "killed", arguments):
        process.join()
    one, other = state_of(folder / "undisturbed"), state_of(folder / "killed")
    equal = one["rest"] == other["rest"] and all(t.equal(other["tensors"][n]) for n, t in one["tensors"].items())
    print(
        json.dumps(
            {
                "processes": arguments.processes,
                "parallel": arguments.parallel if arguments.processes > 1 else "plain",
                "steps": one["rest"][0],
                "kills": kills,
                "while_saving": in_saves,
                "survivors_ended_within_seconds": round(longest, 1),
                "bitwise_equal": equal,
            }
        )
    )


if __name__ == "__main__":
    main()
