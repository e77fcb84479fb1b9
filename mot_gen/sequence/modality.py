"""What samples are made of: Modality, one kind of token, and Span, one tokenised piece of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from mot_gen.errors import InputError, nearest
from mot_gen.sequence.frame import Frame


@dataclass(frozen=True)
class Modality:
    """One kind of token. Exactly one of `vocab_size` (discrete) and `channels` (continuous) is given.

    bidirectional: tokens of one span see all of their span, else only what came before. Continuous spans are denoised
    so. Discrete ones are learned by masking, and the vocabulary has a mask token for them.
    objective: module name under `mot_gen.objectives`, or a dotted path.
    position: "sequence", one position per token; or "grid", one per span, and (row, column) embedded in 2-D (BAGEL).

    The other fields state how a published model lays out its sequences; the defaults are this package's own layout.

    begin, end: ids inside the text vocabulary of the tokens that bound a span; by default new ids after the text's.
    Those of text bound a document, or every text where `wraps` is true (BAGEL); a document then has no bounds.
    unused: [first, past the last] ranges of text ids that no text has. They are in the softmax but never written.
    block: the bounds of a bidirectional span see all of it and stand at its position (BAGEL).
    alone: a learned span is seen by itself alone, and what follows takes its position, as if it were not there (BAGEL).
    input_only: its spans are read and never predicted, so that it has no objective (features of a vision model).
    first: the first of its ids inside the text vocabulary, by default new ids after the text's. Texts have none of
    these ids, and one softmax is over both (Chameleon, Emu3).
    apart: its ids enter and leave by layers of its own (`model.token_layers`), and its softmax is over them alone
    (Janus). Such modalities come last.
    frame: the tokens that say the shape of a picture of discrete tokens, see `Frame` (Emu3).
    margin: how much later than the token before it a span stands (Cosmos3). ends: whether an end token stands after it.
    timed: the begin token of a span that is drawn is its time, embedded by the patch layers (JanusFlow).

    scales: (rows, columns) of each scale, from coarse to fine, where a span has several: a third kind beside causal and
    bidirectional. A token sees its own scale and all earlier ones; positions are by scale (mot_gen/scales.py).
    block_size: tokens that are drawn together, where spans of discrete tokens are made of blocks (BD3-LM, arXiv
    2503.09573). A token sees its own block and all earlier ones. A span is filled up to whole blocks, by one token at
    least, which says that it has ended.
    """

    name: str
    vocab_size: int | None = None
    channels: int | None = None
    bidirectional: bool = False
    objective: str = "next_token"
    position: str = "sequence"
    begin: int | None = None
    end: int | None = None
    wraps: bool = False
    unused: Sequence[Sequence[int]] = ()
    block: bool = False
    alone: bool = False
    input_only: bool = False
    scales: Sequence[Sequence[int]] = ()
    block_size: int = 0
    first: int | None = None
    apart: bool = False
    frame: Frame | None = None
    margin: int = 0
    ends: bool = True
    timed: bool = False

    def __post_init__(self):
        where = f"modality {self.name!r}"
        if (self.vocab_size is None) == (self.channels is None):
            raise InputError(f"{where}: give either vocab_size (discrete) or channels (continuous)")
        size_name, size = ("vocab_size", self.vocab_size) if self.discrete else ("channels", self.channels)
        assert size is not None
        if size < 1:
            raise InputError(f"{where}: {size_name} must be at least 1, got {size}")
        if self.position not in ("sequence", "grid"):
            raise InputError(
                f"{where}: position {self.position!r} is not known" + nearest(self.position, ["sequence", "grid"])
            )
        if self.discrete and self.position == "grid":
            raise InputError(f"{where}: discrete tokens have a position each: position 'sequence'")
        # JSON has no tuples; as tuples the fields of two modalities compare, and hash, as their values do.
        object.__setattr__(self, "unused", tuple(tuple(each) for each in self.unused))
        if isinstance(self.frame, Mapping):
            object.__setattr__(self, "frame", Frame(**self.frame))
        self._check_layout(where)
        self._check_scales(where)

    def _check_scales(self, where: str) -> None:
        pairs = scale_pairs(self.scales, f"{where}: scales") if self.scales else ()
        object.__setattr__(self, "scales", pairs)  # JSON has lists
        for name, given in (("scales", pairs), ("block_size", self.block_size)):
            if given and (not self.discrete or self.bidirectional):
                raise InputError(f"{where}: {name} are of discrete modalities that are not bidirectional")
        if self.block_size < 0 or (self.block_size and (pairs or self.wraps)):
            raise InputError(f"{where}: block_size must be at least 0, and 0 beside scales or wraps")

    def _check_layout(self, where: str) -> None:
        if (self.begin is None) != (self.end is None):
            raise InputError(f"{where}: give both begin and end, or neither")
        if self.wraps and self.begin is None:
            raise InputError(f"{where}: wraps needs the ids begin and end")
        if self.block and not (self.bidirectional and self.position == "grid"):
            raise InputError(f"{where}: block needs bidirectional true and position 'grid'")
        if self.discrete and (self.alone or self.input_only):
            raise InputError(f"{where}: alone and input_only are of continuous modalities")
        if not self.discrete and (self.apart or self.first is not None):
            raise InputError(f"{where}: first and apart are of discrete modalities")
        if self.apart and self.first is not None:
            raise InputError(f"{where}: ids inside the text vocabulary (first) are not apart from it")
        if self.frame is not None and (not self.discrete or self.bidirectional):
            raise InputError(f"{where}: a frame is of discrete tokens that come one by one")
        if self.timed and (self.discrete or self.block or self.input_only or self.position == "grid"):
            raise InputError(f"{where}: timed is of continuous spans that are drawn, of position 'sequence'")
        if not self.ends and (self.discrete or self.block):
            raise InputError(f"{where}: only a continuous span without block can have no end token")

    def framed(self, grid: tuple[int, int] | None) -> int:
        """How many tokens a frame adds to a span of this grid."""
        if self.frame is None:
            return 0
        if grid is None:
            raise InputError(f"modality {self.name!r}: a span needs its grid, which its frame states")
        return self.frame.length(grid)

    @property
    def discrete(self) -> bool:
        return self.vocab_size is not None

    @property
    def one_by_one(self) -> bool:
        """Whether its tokens are discrete and predicted one after the other, each from those before it."""
        return self.discrete and not (self.bidirectional or self.scales or self.block_size)

    @property
    def whole(self) -> bool:
        """Whether its tokens are discrete, and each stands where it is predicted, several at once."""
        return self.discrete and not self.one_by_one

    def slots(self, tokens: int) -> int:
        """How many slots a span of so many tokens takes, its bounds not counted."""
        return tokens if not self.block_size else (tokens // self.block_size + 1) * self.block_size


def scale_pairs(scales: Sequence[int | Sequence[int]], where: str) -> tuple[tuple[int, int], ...]:
    """Sides, or (rows, columns), of each scale as pairs. InputError, which begins with `where`, unless there are two or
    more and each is larger than the one before in one direction at least and smaller in none."""
    pairs = []
    for scale in scales:
        sides = [scale, scale] if isinstance(scale, int) else list(scale)
        if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
            raise InputError(f"{where}: a scale is one side or (rows, columns), each at least 1, got {scale!r}")
        pairs.append((sides[0], sides[1]))
    rising = all(a != b and a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(pairs))
    if len(pairs) < 2 or not rising:
        got = ", ".join(f"{rows} x {columns}" for rows, columns in pairs) or "none"
        raise InputError(f"{where}: needs two scales or more, each larger than the one before, got {got}")
    return tuple(pairs)


@dataclass
class Span:
    """One tokenised piece of one modality.

    values: (n,) integer ids in the modality's own vocabulary, or (n, C) float latents.
    grid: (rows, columns) with rows * columns == n, row-major; None for what has no two dimensions. Of a span of several
    scales it is (1, n).
    learned: whether it carries loss, or only conditions what follows.
    """

    modality: str
    values: Tensor
    grid: tuple[int, int] | None = None
    learned: bool = True

    def __len__(self) -> int:
        return self.values.shape[0]
