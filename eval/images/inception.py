"""The Inception of FID: torchvision's Inception-v3 changed into the network of 2015 that FID and IS are defined with.

It differs from torchvision's in 1008 classes, in average pooling that does not count the padding, and in a maximum
pooling in its last block. The weights are TensorFlow's of 2015-12-05, as converted for pytorch-fid; images are resized
as TensorFlow 1 did and scaled to (x - 128) / 128. InceptionScore uses the logits without their bias, as its authors do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d
from torchvision.models import inception as tv

from mot_gen.errors import InputError
from mot_gen.eval.images.extractors import Extractor
from mot_gen.eval.images.weights import downloaded, load_state_dict, missing_weights

ADDRESS = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

average = partial(avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
maximum = partial(max_pool2d, kernel_size=3, stride=1, padding=1)


def repooled(block: type[nn.Module], pool: Callable[[Tensor], Tensor]) -> type[nn.Module]:
    """torchvision's block with another pooling in its last branch, whose convolution is then called `pooled`."""

    class Repooled(block):  # type: ignore[valid-type, misc]  # the base is chosen by the caller
        pooled: nn.Module
        branch_pool: nn.Module

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.pooled, self.branch_pool = self.branch_pool, nn.Identity()

        def _forward(self, x: Tensor) -> list[Tensor]:
            return [*super()._forward(x)[:-1], self.pooled(pool(x))]

    return Repooled


def inception_2015(logits: bool = False) -> nn.Module:
    """(N, 3, 299, 299) -> (N, 2048), or (N, 1008) logits without bias; weights not yet set."""
    a, c, e = (repooled(block, average) for block in (tv.InceptionA, tv.InceptionC, tv.InceptionE))
    blocks = [tv.BasicConv2d, a, tv.InceptionB, c, tv.InceptionD, e, tv.InceptionAux]
    network = tv.Inception3(1008, aux_logits=False, inception_blocks=blocks, init_weights=False)
    network.Mixed_7c = repooled(tv.InceptionE, maximum)(2048)
    network.fc = nn.Linear(2048, 1008, bias=False) if logits else nn.Identity()
    return network


def fid_inception(*, weights=None, output="features", resize="tf1", dtype="float32", download=False) -> Extractor:
    """The extractor. weights: local file, its hash checked; download=True fetches it into torch's hub cache."""
    if weights is None:
        cached = downloaded(ADDRESS, SHA256) if download else None
        if cached is None:
            raise missing_weights("extractor fid-inception", ADDRESS, SHA256, "weights=FILE (--weights FILE)")
        weights = cached
    network = inception_2015(logits=output == "logits")
    network.load_state_dict(renamed(load_state_dict(weights, SHA256), network, weights))
    half = (128 / 255,) * 3
    return Extractor(network, "fid-inception", 299, resize=resize, mean=half, std=half, dtype=dtype, sha256=SHA256)


def renamed(state: dict[str, Tensor], network: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """The published state dict under this network's names, less what the network does not have (fc, its bias)."""
    state = {key.replace("branch_pool.", "pooled."): value for key, value in state.items()}
    wanted = network.state_dict()
    # The published file predates batch norm's count of batches, which nothing reads in eval mode.
    absent = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    if absent:
        raise InputError(f"{path}: lacks {absent[0]}; give the file at {ADDRESS}")
    return {key: state.get(key, value) for key, value in wanted.items()}
