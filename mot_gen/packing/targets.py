"""token_targets: which slots predict a discrete token, and which token."""

from __future__ import annotations

import torch
from torch import Tensor

from mot_gen.sequence.batch import Latents
from mot_gen.sequence.layout import PADDING, Layout


def token_targets(
    layout: Layout, ids: Tensor, learned: Tensor, latents: dict[str, Latents], whole: Tensor
) -> tuple[Tensor, Tensor]:
    """Slots that predict a discrete token, and the tokens' ids: (M,) each. whole: (modalities,) bool, `Modality.whole`.

    A slot predicts its successor, if that is discrete, learned and of the same document. In a span that is learned as a
    whole, or scale by scale, a slot predicts its own token, and the span's end is given by its size. A continuous token
    predicts none: its output is its denoising.
    """
    continuous = torch.zeros(learned.numel(), dtype=torch.bool)
    for each in latents.values():
        continuous[each.slots] = True
    continuous = continuous.view_as(learned)
    own_slot = whole[layout.modality]
    if layout.block is not None:
        own_slot = own_slot & (layout.block != PADDING)  # special tokens count as text, which may come in blocks
    one_by_one = ~continuous & ~own_slot
    wanted = torch.zeros_like(learned)
    same = layout.document[:, 1:] == layout.document[:, :-1]
    wanted[:, :-1] = learned[:, 1:] & same & one_by_one[:, 1:] & one_by_one[:, :-1]
    own = learned & own_slot & ~continuous
    slots = (wanted | own).flatten().nonzero().flatten()
    after = (~own).flatten()[slots].long()
    return slots, ids.flatten()[slots + after]
