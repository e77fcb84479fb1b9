"""Passes as CUDA graphs beside passes kernel by kernel: the same texts and pictures, and the time of both.

Where they are the same and take less time on the cards that count, `mot_gen.backbone.cuda_graphs` may have them on by
default.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu.pipelines import pictures, switched, texts, untrained
from benchmarks.gpu.rows import Figures, difference
from benchmarks.gpu.setting import Setting, Skipped
from mot_gen.backbone import cuda_graphs, fused

AGREES = 1e-2  # of the largest value of a picture, in bf16


def graphs(setting: Setting) -> Figures:
    """Greedy texts of 256 tokens and pictures of 20 steps, one and sixteen at once, by a model of the size 94M; with
    our own kernels too. AssertionError where a text or a picture is another one."""
    if not setting.on_gpu:
        raise Skipped("there are CUDA graphs on a GPU alone; the tests record passes on a pretended one")
    built = untrained("mot", "94M", setting)
    figures: dict[str, float | str] = {}
    for own, kernels in setting.pick(((False, ""), (True, ", our own kernels")), ((False, ""),)):
        for count in setting.pick((1, 16), (2,)):
            for what, make, length in (("texts", texts, 256), ("pictures", pictures, 20)):
                action = switched(fused.use, own, make(built, count, setting.pick(length, 3), setting))
                name = f"{what}, {count} at once{kernels}"
                figures |= compared(name, action, switched(cuda_graphs.use, True, action), setting)
    return figures


def compared(name: str, plain, recorded, setting: Setting) -> Figures:
    """The time of an action kernel by kernel over its time with graphs. AssertionError where they do not agree."""
    wanted, found = made(plain), made(recorded)
    if isinstance(wanted, Tensor):
        apart = difference(found, wanted)
        assert apart < AGREES, f"{name}: pictures drawn with graphs differ by {apart} of the largest value"
    else:
        assert found == wanted, f"{name}: texts written with graphs are others"
    seconds = setting.alternate({"kernels": plain, "graph": recorded})
    return {f"{name}: time kernel by kernel over graphs": seconds["kernels"] / seconds["graph"]}


def made(action) -> Tensor | list[str]:
    """The texts or pictures, these from the same noise."""
    torch.manual_seed(0)
    output = action()
    return output.images if hasattr(output, "images") else output.texts
