"""token_targets: which slots predict a discrete token, and which token."""

from __future__ import annotations

import torch
from torch import Tensor

from mot_gen.sequence.batch import Latents
from mot_gen.sequence.layout import Layout


def token_targets(
    layout: Layout, ids: Tensor, learned: Tensor, latents: dict[str, Latents], bidirectional: Tensor
) -> tuple[Tensor, Tensor]:
    """Slots that predict a discrete token, and the tokens' ids: (M,) each. bidirectional: (modalities,) bool.

    A slot predicts its successor, if that is discrete, learned and of the same document. In a bidirectional span, which
    is learned as a whole, a slot predicts its own token. A continuous token predicts none: its output is its denoising.
    The end of a bidirectional span is given by its size.
    """
    continuous = torch.zeros(learned.numel(), dtype=torch.bool)
    for each in latents.values():
        continuous[each.slots] = True
    continuous = continuous.view_as(learned)
    whole = bidirectional[layout.modality]
    one_by_one = ~continuous & ~whole
    wanted = torch.zeros_like(learned)
    same = layout.document[:, 1:] == layout.document[:, :-1]
    wanted[:, :-1] = learned[:, 1:] & same & one_by_one[:, 1:] & one_by_one[:, :-1]
    own = learned & whole & ~continuous
    slots = (wanted | own).flatten().nonzero().flatten()
    after = (~own).flatten()[slots].long()
    return slots, ids.flatten()[slots + after]
