"""Frame: the tokens by which a picture of discrete tokens states its shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mot_gen.errors import InputError


@dataclass(frozen=True)
class Frame:
    """Tokens of the text vocabulary that say the shape of a picture of discrete tokens (Emu3):

        begin  2 * 6  opened  T T T T T T row_end  T T T T T T row_end  closed  end

    digits: the ids of 0 to 9, by which rows and columns are written. times: that of the sign between them.
    """

    digits: Sequence[int]
    times: int
    opened: int
    row_end: int
    closed: int

    def __post_init__(self):
        object.__setattr__(self, "digits", tuple(self.digits))
        if len(self.digits) != 10:
            raise InputError(f"frame: digits are the ids of 0 to 9, got {len(self.digits)}")

    @property
    def special(self) -> set[int]:
        """The tokens of a frame that no text has; digits and the sign between them are in texts too."""
        return {self.opened, self.row_end, self.closed}

    def header(self, grid: tuple[int, int]) -> list[int]:
        """What stands between the begin token and the first row."""
        rows, columns = ([self.digits[int(digit)] for digit in str(side)] for side in grid)
        return [*rows, self.times, *columns, self.opened]

    def length(self, grid: tuple[int, int]) -> int:
        """How many tokens it adds to those of the picture, its begin and end not counted."""
        return len(self.header(grid)) + grid[0] + 1
