"""What processes do in the tests of training on many: no pytest here, each fork would import it."""

import json
import os
import resource
import signal
from itertools import count
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from mot_gen.data.loader import Tokenised
from mot_gen.errors import InputError, Interrupted, ProcessLost
from mot_gen.recipes.recipe import load_recipe
from mot_gen.reports.conclude import all_hooks
from mot_gen.sequence import Span
from mot_gen.training import parallel, sitting
from mot_gen.training import world as worlds
from mot_gen.training.loop import REPORT, Hooks, held_out_losses, train, training_step
from mot_gen.training.run_state import restore, save
from mot_gen.training.runs import Run, prepare

TINY = [
    "training.threads=1",
    "data.window=48",
    "data.held_out=0.03",
    "tokenizers.text.vocab_size=270",
    "backbone.dim=16",
    "backbone.layers=2",
    "backbone.heads=2",
    "training.row_length=64",
    "training.rows=2",
    "training.global_rows=4",
    "training.steps=6",
    "training.warmup_steps=2",
    "training.ema=0.9",
    "training.checkpoint_every=2",
    "training.sample_every=0",
    "training.log_every=1",
    "training.device=cpu",
    "training.patience=60",
    "training.peak_flops=1e11",
]
KINDS = {
    "ddp": [],
    "fsdp": [],
    "hsdp": ["training.shard=1"],  # two replicas of one share each
    "fsdp, recomputed": ["training.gradient_checkpointing=true"],
    "fsdp, bf16": ["training.precision=bf16"],
}


def tiny(*overrides: str):
    return load_recipe("digits", [*TINY, *overrides])


def tiny_of(kind: str):
    return tiny(f"training.parallel={kind.partition(',')[0]}", *KINDS[kind])


def whole(tensors) -> dict[str, torch.Tensor]:
    return {name: (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone() for name, t in tensors}


class OneWithoutImages:
    """Deals every other batch without images; on two processes, all of one's batches."""

    def __init__(self, rank: int, size: int):
        self.numbers = count(rank, size)

    def state_dict(self) -> dict:
        return {}

    def __next__(self):
        number = next(self.numbers)
        random = torch.Generator().manual_seed(number)

        def text(n):
            return Span("text", torch.randint(200, (n,), generator=random))

        image = Span("image", torch.randn(16, 4, generator=random), (4, 4))
        if number % 2:
            return [[Tokenised([text(9)]), Tokenised([text(30)])], [Tokenised([text(50)])]]
        return [[Tokenised([text(9), image])], [Tokenised([image, text(5)]), Tokenised([image])]]


def four_steps(run: Run) -> dict:
    """Everything that must not depend on how many processes made it."""
    gradients, step = [], run.optimizer.step

    def keep_gradients(number):
        gradients.append(whole((name, p.grad) for name, p in run.model.named_parameters()))
        return step(number)

    loader, run.batches.loader = run.loader, OneWithoutImages(run.world.rank, run.world.size)
    run.optimizer.step = keep_gradients
    found = {"initial": whole(run.model.named_parameters()), "lines": [training_step(run) for _ in range(4)]}
    run.optimizer.step, run.batches.loader = step, loader
    run.batches.load_state_dict(loader.state_dict())
    return found | {"gradients": gradients[0], "held_out": held_out_losses(run), **state_of(run)}


def state_of(run: Run) -> dict:
    """Weights, averages, moments, and the position in the data."""
    return {
        "model": whole(run.model.named_parameters()),
        "ema": whole(run.averaged.named_parameters()),
        "moments": whole(run.optimizer.tensors().items()),
        "position": (run.step, run.tokens, run.flops, run.optimizer.state_dict(), run.batches.state_dict()),
    }


def every_kind(rank: int, folder: Path) -> dict:
    """Four steps of each kind, what each process then holds, and a NaN that only the last process meets."""
    found = {}
    with worlds.join(tiny().training) as world:
        for kind in KINDS:
            run = prepare(tiny_of(kind), folder / kind, world)
            shares = sum(parallel.local(p).numel() for p in run.model.parameters())
            found[kind] = four_steps(run) | {"kind": run.kind, "share": shares}
            save(run)
            run.saver.wait()
            found[kind]["skipped"] = met_a_nan(run)
            run.close()
    return found


def met_a_nan(run: Run) -> tuple[int, float]:
    """Steps skipped, and how far the weights moved, where the last process's loss is no number."""
    before = whole(run.model.named_parameters())
    if run.world.rank == run.world.size - 1:
        run.model.register_forward_hook(_times_nan)
    training_step(run)
    after = whole(run.model.named_parameters())
    return run.optimizer.skipped, max((after[name] - before[name]).abs().max().item() for name in before)


def _times_nan(module, given, losses):
    losses.total = losses.total * float("nan")
    return losses


def resumed(rank: int, folder: Path, kinds: list[str]) -> dict:
    """What comes back from each kind's checkpoint, on fully sharded processes or on one."""
    found, recipe = {}, tiny("training.global_rows=0", "training.parallel=fsdp")
    with worlds.join(recipe.training) as world:
        for kind in kinds:
            run = prepare(recipe, folder / kind, world)
            restore(run)
            found[kind] = state_of(run)
            run.close()
    return found


def at_step(number: int, act) -> None:
    """Have the loop call `act(run)` after its number-th step."""

    def step(run: Run, read: bool = True) -> dict:
        line = training_step(run, read)
        if run.step == number:
            act(run)
        return line

    sitting.training_step = step


def faults(rank: int, folder: Path) -> dict:
    """An undisturbed run; one whose last process alone is asked to stop, and its rest; one whose last process alone
    has no room left on its disk when it saves for the second time."""
    recipe, last, exported = tiny("training.parallel=fsdp"), rank == 1, []
    found = {"undisturbed": state_of_finished(train(recipe, folder / "undisturbed"))}
    another_port()
    at_step(3, lambda run: last and os.kill(os.getpid(), signal.SIGTERM))
    found["stopped"] = error_of(Interrupted, recipe, folder / "stopped")
    another_port()
    at_step(3, lambda run: None)
    hooks = Hooks(
        evaluate=lambda run: {"quality": run.step},
        export=lambda run: exported.append(whole(run.averaged.named_parameters())),
    )
    found["resumed"] = state_of_finished(
        train(tiny("training.parallel=fsdp", "evaluation.every=3"), folder / "stopped", resume=True, hooks=hooks)
    )
    found["exported"] = exported
    another_port()
    room = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(run: Run) -> None:
        run.saver.wait()  # what was begun two steps ago is written
        if last:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, room[1]))

    at_step(4, fill_the_disk)
    found["full"] = error_of(InputError, recipe, folder / "full")
    resource.setrlimit(resource.RLIMIT_FSIZE, room)
    return found


def another_port() -> None:
    """torchrun starts a process once; one that joins again must not meet what the first time left in the store."""
    os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)


def state_of_finished(run: Run) -> dict:
    """This process's shares of all that was trained, since the group that would gather them is gone."""
    groups = {"model": run.model.named_parameters(), "ema": run.averaged.named_parameters()}
    return {kind: {name: parallel.local(p).detach().clone() for name, p in named} for kind, named in groups.items()} | {
        "moments": {name: parallel.local(m).clone() for name, m in run.optimizer.tensors().items()},
        "random": {"": torch.get_rng_state()},
        "position": (run.step, run.tokens, run.loader.state_dict()),
    }


def error_of(kind: type[Exception], *arguments) -> str:
    try:
        train(*arguments)
    except kind as error:
        return str(error)
    finally:
        if torch.distributed.is_initialized():  # after an error a process is not expected to go on
            torch.distributed.destroy_process_group()
    return "nothing was raised"


def measured(rank: int, folder: Path) -> dict:
    """The report of a run on pictures of one's own that measures on the way, and ends with a page."""
    quick = ["sampling.num_inference_steps=1", "sampling.max_new_tokens=2", "evaluation.samples=2"]
    measuring = ["training.steps=2", "evaluation.every=2", "evaluation.metrics=[bleu]"]
    recipe = tiny(f"data.records={folder / 'own.jsonl'}", *measuring, *quick)
    train(recipe, folder / "run", hooks=all_hooks(recipe))
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    report = json.loads((folder / "run" / REPORT).read_text())
    return {"report": report, "evaluation": json.loads(lines[-1])["evaluation"]}


def killed(rank: int, folder: Path) -> dict:
    """The last process is killed in the fifth step, when what was saved after the second is written for certain."""
    at_step(5, lambda run: rank == 1 and os.kill(os.getpid(), signal.SIGKILL))
    return {"error": error_of(ProcessLost, tiny("training.parallel=fsdp"), folder)}
