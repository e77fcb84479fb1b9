"""Watching a run from elsewhere: `watchers` hands each line of metrics.jsonl to TensorBoard or Weights & Biases.

Both are extras, and off unless `training.watch` names them. W&B reads its key and its mode from its own environment
variables; `WANDB_MODE=offline` sends nothing.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mot_gen.errors import InputError
from mot_gen.recipes.recipe import Recipe

Watcher = Callable[[dict], None]  # given a line of metrics.jsonl


@contextmanager
def watchers(recipe: Recipe, folder: Path) -> Iterator[Sequence[Watcher]]:
    """The watchers that a recipe names, closed at the end; InputError where one's extra is not installed."""
    begin = {"tensorboard": _tensorboard, "wandb": _wandb}
    with ExitStack() as stack:
        yield [begin[name](recipe, folder, stack) for name in recipe.training.watch]


def _tensorboard(recipe: Recipe, folder: Path, stack: ExitStack) -> Watcher:
    writer = _extra("tensorboard", "torch.utils.tensorboard").SummaryWriter(str(folder / "tensorboard"))
    stack.callback(writer.close)

    def watch(line: dict) -> None:
        for name, value in numbers(line).items():
            writer.add_scalar(name, value, line["step"])

    return watch


def _wandb(recipe: Recipe, folder: Path, stack: ExitStack) -> Watcher:
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]  # so that a resumed run is the same run
    run = _extra("wandb", "wandb").init(
        project="mot-gen",
        name=recipe.name,
        id=f"{folder.name}-{place}",
        resume="allow",
        dir=str(folder),
        config=recipe.model_dump(mode="json"),
    )
    stack.callback(run.finish)
    return lambda line: run.log(numbers(line), step=line["step"])


def _extra(name: str, module: str):
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(
            f"training.watch: {name} is not installed; pip install 'mot-gen[{name}]', or leave it out"
        ) from None


def numbers(line: dict, prefix: str = "") -> dict[str, float]:
    """The numbers of a nested line, by their path: losses/text, held_out/image, ..."""
    flat: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, dict):
            flat |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and name != "step":
            flat[prefix + name] = value
    return flat
