"""Which samples come next: `BatchPlan`, the position in an endless stream of rows.

An epoch is a permutation of what the mixture of sources shows in it (mixture.py), cut into windows. A window's samples
are arranged, packed into rows and the rows shuffled; loader.py does that. So memory and start-up cost follow the
window, never the set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mot_gen.data.mixture import Mixture, SampleDraw
from mot_gen.data.samples import sample_key
from mot_gen.errors import InputError
from mot_gen.packing import best_fit_rows, plan_rows

PACKINGS = {"fewest": plan_rows, "best_fit": best_fit_rows}  # how documents share rows; the second is of older runs
Position = tuple[int, int]  # epoch, first sample of a window in that epoch's permutation


@dataclass
class BatchPlan:
    """The position in the stream of rows: `consumed` rows of the window at `start` in `epoch` are used up.

    mixture: what an epoch shows.
    window: samples a window.
    block: neighbours that the shuffle keeps together.
    index: gives name -> value of everything that the stream depends on; a state made under another index is refused.
    Asked only where a state is saved or loaded, since it reads all texts of some data sets.
    packing: of PACKINGS; a state goes on with its own.

    The position counts what was handed out, never what was prefetched.
    """

    mixture: Mixture
    window: int
    seed: int
    block: int = 1
    index: Callable[[], dict[str, Any]] = dict
    epoch: int = 0
    start: int = 0
    consumed: int = 0
    packing: str = "fewest"

    def __post_init__(self):
        self._order: tuple[int, torch.Tensor] | None = None

    @property
    def position(self) -> Position:
        return self.epoch, self.start

    def showings(self, position: Position) -> list[SampleDraw]:
        """The samples of a window."""
        epoch, start = position
        return self.mixture.showings(epoch, self._places(self._shuffled(epoch), start).tolist())

    def _shuffled(self, epoch: int) -> torch.Tensor:
        """The order of an epoch's blocks; that of one epoch is kept."""
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(sample_key(f"order/{self.seed}/{epoch}") >> 1)
            blocks = -(-len(self.mixture) // self.block)
            self._order = epoch, torch.randperm(blocks, generator=generator, dtype=torch.int32)
        return self._order[1]

    def _places(self, order: torch.Tensor, start: int) -> torch.Tensor:
        """The places that stand at start, start + 1, ... when blocks are put in this order; the last block is short."""
        if self.block == 1:
            return order[start : start + self.window]
        missing = len(order) * self.block - len(self.mixture)
        short = int((order == len(order) - 1).nonzero()) * self.block + self.block - missing  # where it breaks off
        at = torch.arange(start, min(start + self.window, len(self.mixture)))
        at += missing * (at >= short)
        return order[at // self.block].long() * self.block + at % self.block

    def after(self, position: Position) -> Position:
        """The window that follows, in this epoch or the next."""
        epoch, start = position
        return (epoch, start + self.window) if start + self.window < len(self.mixture) else (epoch + 1, 0)

    def next_window(self) -> None:
        self.epoch, self.start = self.after(self.position)
        self.consumed = 0

    def state_dict(self) -> dict[str, Any]:
        """JSON-able: where the stream stands, and what it depends on."""
        place = {"epoch": self.epoch, "start": self.start, "consumed": self.consumed}
        return place | {"packing": self.packing, "index": self.index()}

    def load_state_dict(self, state: Mapping[str, Any], accept_changed: bool = False) -> None:
        """Goes to a saved position. Another index is an InputError, unless accepted: then its epoch begins anew."""
        before, now = state["index"], self.index()
        changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        if changed and not accept_changed:
            raise InputError(
                f"data: {', '.join(changed)} changed since the checkpoint, so its position in the data means nothing; "
                "undo that, or say data.accept_changed=true to begin the epoch anew"
            )
        self.epoch, self.packing = state["epoch"], state.get("packing", "best_fit")
        self.start, self.consumed = (0, 0) if changed else (state["start"], state["consumed"])
