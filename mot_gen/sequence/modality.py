"""What samples are made of: Modality, one kind of token, and Span, one tokenised piece of it.

`only_read` and `all_learned` say of several spans whether they carry loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from torch import Tensor

from mot_gen.errors import InputError, nearest, require
from mot_gen.sequence.frame import Frame

POSITIONS = ("sequence", "grid")

# Option -> the values that other properties must have if the option is not at its default.
NEEDS: Mapping[str, Mapping[str, Any]] = {
    "block": {"bidirectional": True, "position": "grid"},
    "alone": {"discrete": False},
    "input_only": {"discrete": False},
    "first": {"discrete": True, "apart": False},
    "apart": {"discrete": True},
    "frame": {"discrete": True, "bidirectional": False},
    "timed": {"discrete": False, "block": False, "input_only": False, "position": "sequence"},
    "ends": {"discrete": False, "block": False},
    "scales": {"discrete": True, "bidirectional": False},
    "block_size": {"discrete": True, "bidirectional": False, "scales": (), "wraps": False},
}


@dataclass(frozen=True)
class Modality:
    """One kind of token. Exactly one of `vocab_size` (discrete) and `channels` (continuous) is given.

    bidirectional: whether tokens of a span see all of their span, as continuous ones do that are denoised; else they
    see only what came before. Discrete ones are then learned by masking, and the vocabulary has a mask token for them.
    objective: module name under `mot_gen.objectives`, or a dotted path.
    position: "sequence", one position per token; or "grid", one per span, and (row, column) embedded in 2-D (BAGEL).

    The fields of the second group state how a published model lays out its sequences. Their defaults are this package's
    own layout.

    begin, end: ids inside the text vocabulary of the tokens that bound a span; by default new ids after the text's.
    Those of text bound a document, or every text where `wraps` is true (BAGEL); a document then has no bounds.
    unused: [first, past the last] ranges of text ids that no text has. They are in the softmax but never written.
    block: whether the bounds of a bidirectional span see all of it and stand at its position (BAGEL).
    alone: whether no other token sees a learned span; what follows takes its position, as if it were not there (BAGEL).
    input_only: whether its spans are read and never predicted (features of a vision model). It has no objective then.
    first: the first of its ids inside the text vocabulary, by default new ids after the text's. Texts have none of
    these ids, and one softmax is over both (Chameleon, Emu3).
    apart: whether its ids enter and leave the model by layers of their own (`model.token_layers`), with a softmax over
    them alone (Janus). Such modalities come last.
    frame: the tokens that say the shape of a picture of discrete tokens, see `Frame` (Emu3).
    margin: how much is added to the position before a span begins (Cosmos3). ends: whether an end token follows it.
    timed: whether the begin token of a span that is drawn is its time, embedded by the patch layers (JanusFlow).

    The last two make spans that are neither causal nor bidirectional:

    scales: (rows, columns) of each scale, from coarse to fine, if a span has several. A token sees its own scale and
    all earlier ones. Positions are by scale (mot_gen/scales.py).
    block_size: how many discrete tokens are drawn together, if spans are made of blocks (BD3-LM, arXiv 2503.09573). A
    token sees its own block and all earlier ones. The last block is filled up with at least one token, which says that
    the span has ended.
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
        self._check_size(where)
        self._check_position(where)
        self._store_as_values(where)
        require(self.block_size >= 0, f"{where}: block_size must be at least 0, got {self.block_size}")
        require((self.begin is None) == (self.end is None), f"{where}: give both begin and end, or neither")
        if self.wraps and self.begin is None:
            raise InputError(f"{where}: wraps needs the ids begin and end")
        for option, needs in NEEDS.items():
            self._check_needs(where, option, needs)

    def _check_size(self, where: str) -> None:
        """InputError unless one size is given, of at least 1."""
        sizes = {"vocab_size": self.vocab_size, "channels": self.channels}
        given = {name: size for name, size in sizes.items() if size is not None}
        require(len(given) == 1, f"{where}: give either vocab_size (discrete) or channels (continuous)")
        [(name, size)] = given.items()
        require(size >= 1, f"{where}: {name} must be at least 1, got {size}")

    def _check_position(self, where: str) -> None:
        """InputError unless the kind of position is known and fits the tokens."""
        if self.position not in POSITIONS:
            raise InputError(f"{where}: position {self.position!r} is not known" + nearest(self.position, POSITIONS))
        if self.discrete and self.position == "grid":
            raise InputError(f"{where}: discrete tokens have one position each; give position 'sequence'")

    def _store_as_values(self, where: str) -> None:
        """Lists and mappings, as JSON has them, become tuples and a Frame: so two modalities compare, and hash, by
        their values."""
        object.__setattr__(self, "unused", tuple(tuple(ids) for ids in self.unused))
        if self.scales:
            object.__setattr__(self, "scales", scale_pairs(self.scales, f"{where}: scales"))
        else:
            object.__setattr__(self, "scales", ())
        if isinstance(self.frame, Mapping):
            object.__setattr__(self, "frame", Frame(**self.frame))

    def _check_needs(self, where: str, option: str, needs: Mapping[str, Any]) -> None:
        """InputError where an option is not at its default, and another property has a value that rules it out."""
        if getattr(self, option) == getattr(Modality, option):
            return
        for name, needed in needs.items():
            found = getattr(self, name)
            if found != needed:
                raise InputError(f"{where}: {option} needs {_in_words(name, needed)}, not {_in_words(name, found)}")

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
        """Whether its tokens are discrete and predicted several at once, each in its own slot."""
        return self.discrete and not self.one_by_one

    @property
    def masks(self) -> bool:
        """Whether its tokens may be masked, so that the vocabulary has a mask token for it."""
        return self.discrete and (self.bidirectional or self.block_size > 0)

    @property
    def begin_is_apart(self) -> bool:
        """Whether its begin token can be written before its span is made: it is not part of the span's block, nor its
        time."""
        return not (self.block or self.timed)

    def slots(self, tokens: int) -> int:
        """How many slots a span of so many tokens takes, its bounds not counted."""
        if not self.block_size:
            return tokens
        return (tokens // self.block_size + 1) * self.block_size


def _in_words(name: str, value: object) -> str:
    """A property of a modality, as a message says it."""
    if name == "discrete":
        return "discrete tokens (vocab_size)" if value else "continuous tokens (channels)"
    return f"{name} {value!r}"


def scale_pairs(scales: Sequence[int | Sequence[int]], where: str) -> tuple[tuple[int, int], ...]:
    """The sides of each scale, or its (rows, columns), as pairs (rows, columns).

    InputError, which begins with `where`, unless there are two scales or more, and each is larger than the one before
    in at least one direction and smaller in none.
    """
    pairs = [_scale_pair(scale, where) for scale in scales]
    growing = all(_larger(*neighbours) for neighbours in pairwise(pairs))
    if len(pairs) < 2 or not growing:
        got = ", ".join(f"{rows} x {columns}" for rows, columns in pairs) or "none"
        raise InputError(f"{where}: needs two scales or more, each larger than the one before, got {got}")
    return tuple(pairs)


def _scale_pair(scale: int | Sequence[int], where: str) -> tuple[int, int]:
    """One scale as (rows, columns)."""
    sides = [scale, scale] if isinstance(scale, int) else list(scale)
    sizes = [side for side in sides if isinstance(side, int) and side >= 1]
    if len(sides) != 2 or sizes != sides:
        raise InputError(f"{where}: a scale is one side or (rows, columns), each at least 1, got {scale!r}")
    return sizes[0], sizes[1]


def _larger(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Whether a scale is larger than the one before in one direction at least, and smaller in none."""
    return before != after and before[0] <= after[0] and before[1] <= after[1]


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


def only_read(spans: Iterable[Span]) -> list[Span]:
    """Copies of spans that carry no loss: they only condition what follows."""
    return [replace(span, learned=False) for span in spans]


def all_learned(spans: Iterable[Span]) -> list[Span]:
    """Copies of spans that all carry loss."""
    return [replace(span, learned=True) for span in spans]
