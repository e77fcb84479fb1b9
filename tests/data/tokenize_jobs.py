"""A corpus that workers tokenise, in the tests of that. No pytest and little else here: every worker imports it."""

import multiprocessing
import os
import signal

import torch
from PIL import Image

from mot_gen.data.records import Pair
from mot_gen.tokenizers.image_patch import PatchImageTokenizer

COUNT = 23


def pairs(count: int = COUNT, broken: tuple[int, ...] = ()) -> list[Pair]:
    noise = torch.Generator().manual_seed(0)
    made = []
    for i in range(count):
        pixels = torch.randint(256, (8, 8), generator=noise, dtype=torch.uint8).numpy()
        picture = b"no picture" if i in broken else Image.fromarray(pixels)
        made.append(Pair(f"p{i}", picture, (f"caption {i}", f"picture {i}")))
    return made


def patches(patch_size: int = 4) -> PatchImageTokenizer:
    return PatchImageTokenizer(image_size=(8, 8), patch_size=patch_size, color_channels=1)


def tokenizers() -> dict:
    return {"image": patches()}


class KillsItself(PatchImageTokenizer):
    """Kills its process, if that is a worker, at a certain picture."""

    def encode_batch(self, raws):
        if multiprocessing.parent_process() and any(raw.getpixel((0, 0)) == KillsItself.at() for raw in raws):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_batch(raws)

    @staticmethod
    def at() -> int:
        return pairs()[17].image.getpixel((0, 0))


def killers() -> dict:
    return {"image": KillsItself(image_size=(8, 8), patch_size=4, color_channels=1)}
