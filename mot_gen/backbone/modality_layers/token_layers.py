"""TokenLayers: how the ids of a modality that is apart enter and leave the model; build_token_layers;
apart_from_others, which keeps its softmax to its own ids.

    read     id -> code (`width`) -> linear -> GELU -> linear -> D
    written  D -> linear -> GELU -> linear -> logits of its own ids

So Janus reads and writes the ids of pictures (arXiv 2410.13848): its codes are those of the picture tokenizer.

Shapes: n tokens, K ids, D width of the backbone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mot_gen.sequence import Modality


class TokenLayers(nn.Module):
    """The layers of one modality that is apart. GELU is the exact one.

    size: K. width: of a code. hidden: the width between the two layers that read, D by default. head_hidden: that
    between the two layers that write, D by default.
    """

    def __init__(self, dim: int, size: int, width: int = 8, hidden: int | None = None, head_hidden: int | None = None):
        super().__init__()
        self.codes = nn.Embedding(size, width)
        self.fc1 = nn.Linear(width, hidden or dim)
        self.fc2 = nn.Linear(hidden or dim, dim)
        self.head1 = nn.Linear(dim, head_hidden or dim)
        self.head2 = nn.Linear(head_hidden or dim, size)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Codes normal; layers normal with standard deviation 1 / sqrt(fan in), their biases 0."""
        self.codes.weight.normal_()
        for layer in (self.fc1, self.fc2, self.head1, self.head2):
            layer.weight.normal_(std=layer.in_features**-0.5)
            layer.bias.zero_()

    def embed(self, ids: Tensor) -> Tensor:
        """(n,) -> (n, D)."""
        return self.fc2(F.gelu(self.fc1(self.codes(ids))))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., K)."""
        return self.head2(F.gelu(self.head1(hidden)))

    @property
    def head_weights(self) -> int:
        """Multiplications of a token that is written."""
        return self.head1.weight.numel() + self.head2.weight.numel()

    @property
    def input_weights(self) -> int:
        """Multiplications of a token that is read."""
        return self.fc1.weight.numel() + self.fc2.weight.numel()


def build_token_layers(dim: int, modalities: Sequence[Modality], given: Mapping[str, dict]) -> nn.ModuleDict:
    """Modality name -> its `TokenLayers`, of those that are apart. dim: D. given: their options, by name."""
    layers = nn.ModuleDict()
    for modality in modalities:
        if modality.apart and modality.vocab_size is not None:
            options = given.get(modality.name, {})
            layers[modality.name] = TokenLayers(dim, modality.vocab_size, **options)
    return layers


def apart_from_others(logits: Tensor, ids: Tensor, apart: Sequence[tuple[int, int]]) -> Tensor:
    """Logits (M, V) of targets (M,), with -inf for all ids in whose softmax a target has no part.

    apart: of each modality that is apart the first of its joint ids, and the one after its last. Targets among them
    keep these logits alone, all others lose them.
    """
    for first, end in apart:
        place = torch.arange(logits.shape[-1], device=ids.device)
        is_own = (ids >= first) & (ids < end)
        is_apart = (place >= first) & (place < end)
        logits = logits.masked_fill(is_own[:, None] != is_apart, float("-inf"))
    return logits
