"""Each relative of Mixture-of-Transformers beside the plain one: the time of a forward and of a training step, and the
FLOPs of both, as a kernel that skips would count them and as they are run here.

One change each, at the same width: where less is computed, it should take less time; the table in docs/relatives.md
says where it does. 256 x 4, 4 rows of 192. Times are ratios, alternated in one process.
"""

from collections.abc import Iterator

import torch
import yaml

from benchmarks import alternate
from benchmarks.training_step import IMAGE, TEXT, document
from mot_gen.backbone import load
from mot_gen.packing import pack
from mot_gen.study.relatives import RELATIVES

SHAPE = {"dim": 256, "layers": 4, "heads": 8}


def run(repeats: int = 3) -> Iterator[dict]:
    """forward and step over those of the plain Mixture-of-Transformers, and FLOPs likewise."""
    torch.manual_seed(0)
    layout = pack([document() for _ in range(8)], [TEXT, IMAGE], 192).layout
    x = torch.randn(*layout.shape, SHAPE["dim"])
    plain = _backbone([])
    for name, stated in RELATIVES.items():
        own = _backbone(stated)
        pair = {"plain": plain, "own": own}
        forward = alternate({key: lambda b=b: _forward(b, x, layout) for key, b in pair.items()}, repeats)
        step = alternate({key: lambda b=b: _step(b, x, layout) for key, b in pair.items()}, repeats)
        yield {
            "relative": name,
            "forward_over_plain": forward["own"] / forward["plain"],
            "step_over_plain": step["own"] / step["plain"],
            "flops_over_plain": own.eval().flops(layout) / plain.flops(layout),
            "executed_over_plain": own.executed_flops(layout) / plain.flops(layout),
        }


def _backbone(stated: list[str]):
    options = dict(text.split("=", 1) for text in stated)
    module, config = load("mot", {**SHAPE, **{name: yaml.safe_load(value) for name, value in options.items()}})
    return module.Backbone(config, [TEXT, IMAGE])


@torch.no_grad()
def _forward(backbone, x, layout) -> None:
    backbone.eval()(x, layout)


def _step(backbone, x, layout) -> None:
    backbone.train()(x, layout).square().mean().backward()
