"""What a mixer remembers whose memory does not grow with the tokens: RunningCache.

Shapes: B rows.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import torch
from torch import Tensor

from mot_gen.backbone.cache import Slots

# counts (B,) of the tokens to keep of a pass -> what is remembered then.
After = Callable[[Tensor], dict[str, Tensor]]


class RunningCache:
    """Tensors of kept tokens by name, (B, ...) each; a pass says how they follow from how much of it is kept."""

    def __init__(self, **held: Tensor):
        self.held = held
        self._after: After | None = None

    def __getitem__(self, name: str) -> Tensor:
        return self.held[name]

    def place(self, slots: Slots) -> None:
        """Nothing to do: what is remembered has no places."""

    def write(self, after: After) -> None:
        """A pass, which is tentative until `advance`."""
        self._after = after

    @torch.no_grad()
    def advance(self, counts: Tensor) -> None:
        """Keep the first counts[b] of the tokens last read in row b; counts: (B,) int64."""
        assert self._after is not None, "a pass comes before what it keeps"
        self.held = self._after(counts)

    def narrow(self, rows: int) -> RunningCache:
        """The first rows, for passes that are not to be kept."""
        view = copy(self)
        view.held = {name: held[:rows] for name, held in self.held.items()}
        return view

    def snapshot(self) -> dict[str, Tensor]:
        return self.held

    def restore(self, snapshot: dict[str, Tensor], rows: Tensor) -> None:
        """Forget what was kept since the snapshot in some rows, (B,) bool."""
        for name, before in snapshot.items():
            own = rows.view(-1, *[1] * (before.dim() - 1))
            self.held = {**self.held, name: torch.where(own, before, self.held[name])}

    def mark_dynamic(self) -> None:
        """Nothing to do: it is never compiled."""


def last_of(line: Tensor, counts: Tensor, number: int) -> Tensor:
    """line (B, number + S, ...), those kept before a pass first -> the last `number` once counts (B,) more are kept."""
    row = torch.arange(len(counts), device=counts.device)[:, None]
    return line.detach()[row, counts[:, None] + torch.arange(number, device=counts.device)]
