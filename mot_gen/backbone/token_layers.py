"""TokenLayers: how the ids of a modality that is apart enter and leave the model.

    read     id -> code (`width`) -> linear -> GELU -> linear -> D
    written  D -> linear -> GELU -> linear -> logits of its own ids

So Janus reads and writes the ids of pictures (arXiv 2410.13848): its codes are those of the picture tokenizer.

Shapes: n tokens, K ids, D width of the backbone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TokenLayers(nn.Module):
    """width: of a code. hidden: between the two layers that read it, the backbone's by default; head_hidden: of those
    that write, likewise. GELU is the exact one."""

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
