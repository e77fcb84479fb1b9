"""How tokens of a span of several scales enter the backbone: ScaleInputs, build_scale_inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mot_gen.scales import as_scales, built_from, token_count
from mot_gen.sequence import Modality


class ScaleInputs(nn.Module):
    """Embedded tokens of spans of n tokens each -> what the backbone reads.

    A span that is only read enters as its own tokens. In a span that is predicted, a token enters as what the scales
    before its own have built at its place (VAR, arXiv 2404.02905, section 3.2), so that it does not reveal itself;
    tokens of the first scale enter as zeros. A learned vector of each place is added, another one for each case.
    """

    built: Tensor

    def __init__(self, dim: int, sizes: Sequence[Sequence[int]]):
        """sizes: (rows, columns) of each scale."""
        super().__init__()
        scales = as_scales(sizes)
        self.count = token_count(scales)
        self.places = nn.Embedding(2 * self.count, dim)  # of spans that are read, then of those that are predicted
        self.register_buffer("built", built_from(scales), persistent=False)

    def within(self, x: Tensor, own: Tensor, predicted: Tensor | None) -> Tensor:
        """A batch's embedded tokens (B, S, D), with those of the spans in `own`, (B, S) bool, as the backbone reads
        them. predicted: (B, S) bool, whether a token's span is predicted; None: none is."""
        if predicted is None:
            predicted = torch.zeros_like(own)
        spans = x[own].view(-1, self.count, x.shape[-1])
        tokens = self(spans, predicted[own].view(-1, self.count)[:, 0])
        return x.index_put((own,), tokens.flatten(0, 1).to(x.dtype))

    def forward(self, x: Tensor, predicted: Tensor) -> Tensor:
        """x (m, n, D) embedded tokens, predicted (m,) bool -> (m, n, D)."""
        places = self.places.weight.view(2, self.count, -1)[predicted.long()]
        built = torch.matmul(self.built.to(x.dtype), x)
        return torch.where(predicted[:, None, None], built, x) + places


def build_scale_inputs(dim: int, modalities: Sequence[Modality]) -> nn.ModuleDict:
    """Modality name -> its `ScaleInputs`, of those with several scales. dim: D."""
    return nn.ModuleDict({m.name: ScaleInputs(dim, m.scales) for m in modalities if m.scales})
