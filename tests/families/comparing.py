"""What the tests of families share: a picture, converting, pipelines over one another's parts, and how far two arrays
are apart."""

import torch
from PIL import Image

from mot_gen.commands.main import main
from mot_gen.pipelines.base import MultimodalPipeline


def picture_of(rows, columns):
    """A picture of so many pixels, of many colours."""
    bytes_of = torch.arange(rows * columns * 3, dtype=torch.uint8).view(rows, columns, 3)
    return Image.fromarray((bytes_of * 5 % 251).numpy())


def far(found, want):
    """The largest difference, as a part of the largest number that is wanted."""
    want = want.detach().double()
    return ((found.detach().double() - want).abs().max() / want.abs().max()).item()


def converted(published, out):
    """The pipeline of a published folder, through the command."""
    assert main(["convert", str(published), str(out)]) == 0
    return MultimodalPipeline.from_pretrained(out)


def over(pipe, cls, **sampling):
    """A task's pipeline over the parts of another; sampling: what differs from the published defaults."""
    made = cls(**pipe.components, sampling={**(pipe.config.sampling or {}), **sampling})
    made.set_progress_bar_config(disable=True)
    return made


class Noted(list):
    """A logits processor that keeps what it is given."""

    def __call__(self, ids, scores):
        self.append(scores[0].clone())
        return scores

    @property
    def scores(self):
        return torch.stack(list(self))
