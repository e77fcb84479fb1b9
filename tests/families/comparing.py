"""What the tests of families share: pictures and documents, converting, pipelines over one another's parts, how far two
arrays are apart, and checks of texts and pictures that are written token by token."""

import numpy as np
import torch
from PIL import Image

from mot_gen.commands.main import main
from mot_gen.packing import document_length, pack
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.sequence import Span


def picture_of(rows, columns):
    """A picture of so many pixels, of many colours."""
    bytes_of = torch.arange(rows * columns * 3, dtype=torch.uint8).view(rows, columns, 3)
    return Image.fromarray((bytes_of * 5 % 251).numpy())


def standardised(picture, mean, std):
    """A picture as a published network takes it, (1, 3, rows, columns). mean and std: a number, or one a channel."""
    pixels = torch.from_numpy(np.array(picture)).float().permute(2, 0, 1)[None] / 255
    return (pixels - of_channels(mean)) / of_channels(std)


def of_channels(numbers):
    """A number, or one a channel, as what pictures are added to or multiplied with."""
    return torch.tensor(numbers).view(-1, 1, 1)


def packed(pipe, *spans):
    """One document of these spans in a row of its length."""
    return pack([list(spans)], pipe.model.modalities, document_length(list(spans), pipe.model.modalities))


def words_of(pipe, text):
    """A span of text."""
    return Span("text", pipe.text_tokenizer.encode(text).values)


def ids_of(pipe, text):
    """The ids of a text, as a list."""
    return pipe.text_tokenizer.encode(text).values.tolist()


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
    made = cls(**pipe.components | {"sampling": {**(pipe.config.sampling or {}), **sampling}})
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


def check_greedy_text(pipe, note, ids, logits_of):
    """A `Noted` has the logits of a greedy text after `ids` (1, n). logits_of: (1, n) -> the published (1, V)."""
    writable = pipe.model.vocabulary.writable("text")
    writable[pipe.model.vocabulary.document_end] = True
    for scores in note:
        logits = logits_of(ids)
        assert far(scores, logits[0]) < 1e-5
        ids = torch.cat([ids, logits.masked_fill(~writable, -torch.inf).argmax(-1, keepdim=True)], 1)


def check_guided_ids(pipe, ids, rows, logits_of, before=lambda number: ()):
    """`ids` (n,) of a picture are the likeliest under guidance by 3, one after another.

    rows: the ids before the picture, with and without the prompt. logits_of: ids -> the published logits (V,) of what
    follows. before: number of an id -> what stands between it and the one before."""
    first, last = pipe.model.vocabulary.range("image")
    for number, id in enumerate(ids.tolist()):
        rows = [[*row, *before(number)] for row in rows]
        given, away = (logits_of(row)[first:last] for row in rows)
        assert (away + 3 * (given - away)).argmax() == id
        rows = [[*row, id + first] for row in rows]
