"""Pictures and tokens a second of our pipelines beside diffusers' and transformers' models of equal size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.gpu import peers
from benchmarks.gpu.models import parameters
from benchmarks.gpu.pipelines import pictures, texts, untrained
from benchmarks.gpu.rows import Figures
from benchmarks.gpu.setting import Setting

KINDS = ("dense", "mot")


@dataclass(frozen=True)
class Task:
    """unit: what is counted; units: how many of them one output has. length: evaluations, or tokens.
    ours, theirs: (model, outputs at once, length, setting) -> what makes them. peer: name of the other model."""

    unit: str
    units: int
    length: int
    ours: Callable[..., Callable[[], object]]
    theirs: Callable[..., Callable[[], object]]
    peer: str


def images(size: str, setting: Setting) -> Figures:
    """Pictures of 256 tokens, 20 evaluations without guidance, one and sixteen at once; random weights."""
    task = Task("pictures", 1, setting.pick(20, 2), pictures, peers.dit_pictures, "diffusers' DiT")
    return beside(task, size, peers.dit(size, setting), setting)


def tokens(size: str, setting: Setting) -> Figures:
    """Greedy texts of 128 tokens after a short prompt, one and sixteen at once; random weights."""
    length = setting.pick(128, 4)
    task = Task("tokens", length, length, texts, peers.llama_texts, "transformers' Llama")
    return beside(task, size, peers.llama(size, setting), setting)


def beside(task: Task, size: str, peer, setting: Setting) -> Figures:
    """Units a second of our dense model, our MoT and the peer, in turns."""
    models = {kind: untrained(kind, size, setting) for kind in KINDS} | {task.peer: peer}
    makers = dict.fromkeys(KINDS, task.ours) | {task.peer: task.theirs}
    figures = {f"million parameters: {name}": parameters(built) / 1e6 for name, built in models.items()}
    for count in setting.pick((1, 16), (1,)):
        seconds = setting.alternate(actions(models, makers, (count, task.length, setting)))
        made = count * task.units
        figures |= {f"{task.unit} a second, {count} at once: {name}": made / took for name, took in seconds.items()}
    return figures


def actions(models: dict, makers: dict, how: tuple) -> dict:
    return {name: make(models[name], *how) for name, make in makers.items()}
