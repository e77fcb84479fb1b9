"""How often the host waits and how many kernels are launched: a training step, a decoded token, a denoising step.

Waits are those that `torch.cuda.set_sync_debug_mode` warns of, kernels those that `torch.profiler` sees on the device,
copies included. On a CPU, which has neither, operations that no other operation called are counted.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.pipelines import pictures, texts, untrained
from benchmarks.gpu.rows import Figures
from benchmarks.gpu.setting import Setting
from mot_gen.backbone import fused
from mot_gen.recipes.recipe import load_recipe
from mot_gen.training.loop import prepare, training_step

WARMING = 3  # steps, after which the compiler has seen that sizes differ
CPU, CUDA = ProfilerActivity.CPU, ProfilerActivity.CUDA
SIX_LAYERS = ["backbone.layers=6", "training.sample_every=0"]
TINY = ["data.window=24", "tokenizers.text.vocab_size=270", "backbone.dim=32", "backbone.heads=2", "training.rows=2"]


def training_budget(setting: Setting) -> Figures:
    """A step of recipe `digits` with six layers: one that nobody reads, and one whose losses are read; with blocks that
    are not compiled, and on a GPU with compiled ones."""
    figures: dict[str, float | str] = {}
    asked = [*SIX_LAYERS, *setting.pick([], TINY), f"training.device={setting.device.type}"]
    for precision in setting.pick(("fp32", "bf16"), ("fp32",)):
        for compiled in (False, True)[: 1 + setting.on_gpu]:
            how = [f"training.precision={precision}", f"training.compile={str(compiled).lower()}"]
            figures |= steps_of([*asked, *how], precision + ", compiled" * compiled, setting)
    return figures


def steps_of(overrides: list[str], name: str, setting: Setting) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(load_recipe("digits", overrides), Path(folder))
        for _ in range(WARMING):
            training_step(run)
        unread = counted(partial(training_step, run, read=False), setting)
        read = counted(partial(training_step, run), setting)
        run.close()
    return {**told(f"{name}, not read", *unread, setting), **told(f"{name}, read", *read, setting)}


def generation_budget(setting: Setting) -> Figures:
    """What one more token and one more step take, of models of the size 94M; on a GPU also with our own kernels."""
    built = untrained("mot", "94M", setting)
    figures: dict[str, float | str] = {}
    for own in (False, True)[: 1 + setting.on_gpu]:
        fused.use(own)
        try:
            token, step = (each(partial(make, built, 1), setting) for make in (texts, pictures))
        finally:
            fused.use(False)
        with_own = ", our own kernels" * own
        figures |= told(f"a decoded token{with_own}", *token, setting)
        figures |= told(f"a denoising step{with_own}", *step, setting)
    return figures


def each(make: Callable[..., Callable[[], object]], setting: Setting, few: int = 3, more: int = 7) -> tuple:
    """Waits and kernels of one token or step: what `more` of them take beyond `few`."""
    less, all_of_them = (counted(make(number, setting), setting) for number in (few, more))
    return tuple((high - low) / (more - few) for low, high in zip(less, all_of_them))


def told(what: str, waits: float, kernels: float, setting: Setting) -> Figures:
    if setting.on_gpu:
        return {f"{what}: kernels": kernels, f"{what}: host waits": waits}
    return {f"{what}: operations": kernels, f"{what}: host waits": "none to count on a CPU"}


def counted(action: Callable[[], object], setting: Setting) -> tuple[int, int]:
    """Host waits and kernels of an action that was called once before."""
    action()
    setting.wait()
    with waited(setting) as seen:
        action()
    waits = sum("synchronizing CUDA operation" in str(warning.message) for warning in seen)
    with profile(activities=[CPU, CUDA] if setting.on_gpu else [CPU]) as watch:
        action()
        setting.wait()
    return waits, len(launched(watch.events(), setting))


@contextmanager
def waited(setting: Setting) -> Iterator[list]:
    """The warnings that PyTorch gives while it watches for waits."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        watch_for_waits(setting, "warn")
        try:
            yield seen
        finally:
            watch_for_waits(setting, "default")


def watch_for_waits(setting: Setting, mode: str) -> None:
    if setting.on_gpu:
        torch.cuda.set_sync_debug_mode(mode)


def launched(events, setting: Setting) -> list:
    """What ran on the device; on a CPU, operations that no other called. Marks that programs set are neither."""
    found = [event for event in events if not event.is_user_annotation]
    if setting.on_gpu:
        return [event for event in found if event.device_type == DeviceType.CUDA]
    return [event for event in found if event.cpu_parent is None]
