"""The parts of a block: a class for each slot, Parts, Layer. What all parts share is in part.py.

A *slot* is a choice that every block makes: how tokens are mixed, what the feed-forward is, where the norm stands. A
*part* fills a slot. It is a class in a file of the slot's folder, or of a package of your own, and is named as the slot
is (`Mixer`, `FeedForward`, ...): a frozen dataclass whose fields are its options. How recipes name it: named_parts.py.

A part holds no weights. `modules` says what it adds to a block, and the other methods are given that block. So a
parameter's name says what it is and not which part asked for it, and equal parts of several layers share what they
derive from a batch.

Shapes: T tokens in tower order, D width, H heads, K head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from mot_gen.backbone.attention import Places, attend
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.cache import LayerCache
from mot_gen.backbone.next_token import NextToken
from mot_gen.backbone.owners import Owners
from mot_gen.backbone.part import Modules, Part
from mot_gen.backbone.pools import Pool
from mot_gen.backbone.routing import Owned, Routing


class Mixer(Part):
    """How tokens read one another. norm: the block's norm that stands by it. reads: which of the block's parts `reach`,
    `bias` and `head_choice` it asks; a recipe may name those that some mixer asks."""

    norm: ClassVar[str] = "attention_norm"
    reads: ClassVar[tuple[str, ...]] = ()

    def forward(self, block: Layer, x: Tensor, plan: Plan, cache: Any) -> Tensor:
        """x (T, D) in tower order -> (T, D). cache: what `cache` made, or None."""
        raise NotImplementedError

    def cache(self, block: Layer, rows: int, length: int, like: Tensor) -> LayerCache:
        """A cache of so many tokens a row, of the device and dtype of `like`."""
        raise NotImplementedError

    def width_step(self) -> int:
        """What the width of the model must be a multiple of."""
        return 1


class Reach(Part):
    """Which keys a query sees. grows: whether the next token sees all that is kept of its document."""

    grows: ClassVar[bool] = False

    def sees(self, query: Places, key: Places) -> Tensor:
        """bool, of places that broadcast against one another."""
        raise NotImplementedError

    def pairs(self, batch: Batch) -> int:
        """Pairs of query and key that a kernel computes which skips keys out of reach."""
        rows, length = batch.layout.shape
        return rows * length**2


class Bias(Part):
    """What is added to attention's scores, or done with them otherwise."""

    empty: ClassVar[bool] = False  # whether nothing is added, and nothing else done

    def scores(self, block: Layer, query: Places, key: Places) -> Tensor | float:
        """What is added, of places (B, Q) and (B, K) -> (1 or B, 1 or H, Q, K)."""
        raise NotImplementedError

    def attend(self, block: Layer, q: Tensor, k: Tensor, v: Tensor, mask: Any, plan: Plan) -> Tensor:
        """q (B, H, Q, K), k and v (B, G, N, K) -> (B, H, Q, K); mask: of all that is seen, with `scores` in it."""
        return attend(q, k, v, mask)


class HeadChoice(Part):
    """Which heads of attention a token uses."""

    def weigh(self, block: Layer, x: Tensor, mixed: Tensor, plan: Plan) -> Tensor:
        """mixed (T, H * K), what the heads found for the tokens x (T, D) -> the same, weighed."""
        raise NotImplementedError

    def active(self, block: Layer) -> int:
        """How many heads a token uses."""
        return block.heads


class FeedForward(Part):
    """What a token passes through alone. empty: whether there is none. matrices: of a unit that may be an expert, how
    many projections of D x F there are, F being its `ffn_dim`."""

    empty: ClassVar[bool] = False
    matrices: ClassVar[int] = 0

    @property
    def step(self) -> int:
        """What its `ffn_dim`, where it has one, must be a multiple of."""
        return 1

    def refuse_experts(self, config: Any) -> None:
        """InputError where the config asks for experts, and this is none."""
        if config.experts != 1 or config.shared_experts or config.router != "expert_choice":
            kind = type(self).__module__.rpartition(".")[2]
            raise self.refuse("kind", f"{kind} is no expert; drop backbone.experts, shared_experts and router")

    def forward(self, block: Layer, x: Tensor, plan: Plan) -> Tensor:
        """x (T, D) in tower order -> (T, D)."""
        return block.ffn(x, plan.routing)

    def modules(self, block: Layer) -> Modules:
        return {"ffn": self.unit(block, block.owners)}

    def unit(self, block: Layer, owners: Owners) -> nn.Module:
        """A module (x (n, D), Routing) -> (n, D), of as many sets of parameters as owners say of `ffn`."""
        raise NotImplementedError


class Activation(Part):
    """The function of a feed-forward's hidden channels: of each alone, with a `gradient`; or, with parameters that are
    learned or of all channels together, a module."""

    # (gradient of the output, input, where the result goes); None: autograd finds it.
    gradient: ClassVar[Any] = None

    function: ClassVar[Callable[..., Tensor]]

    def module(self, owners: Owners) -> nn.Module | None:
        """A module (hidden (n, F), Routing) -> (n, F), where `function` alone does not do."""
        return None


@dataclass
class Choice:
    """Which of a pool's n tokens go to each of its E experts. token, gate: (P,) sorted by expert, the tokens and the
    weights of what the experts make of them. counts: (E,) int64, how many each expert has. loss: weighted, or None."""

    token: Tensor
    gate: Tensor
    counts: Tensor
    loss: Tensor | None = None


class Router(Part):
    """How tokens and experts meet. taken: experts that a token passes through, on the average. scores: whether experts
    are scored, by a vector each."""

    scores: ClassVar[bool] = True

    @property
    def on_grid(self) -> bool:
        """Whether it asks which tokens of a picture are neighbours."""
        return False

    @property
    def taken(self) -> int:
        return 1

    def charged(self, number: int, learns: bool) -> int:
        """How many of so many experts a token's costs are counted for."""
        return self.taken

    def choose(self, logits: Tensor, pool: Pool) -> Choice:
        """logits: (n, E) the scores of a pool's tokens."""
        raise NotImplementedError


class Norm(Part):
    """Where the norm of a sublayer stands."""

    def before(self, norm: nn.Module, x: Tensor, routing: Routing) -> Tensor:
        """What the sublayer reads of the residual stream."""
        return x

    def after(self, norm: nn.Module, y: Tensor, routing: Routing) -> Tensor:
        """What is added to it of the sublayer's output."""
        return y


class Depth(Part):
    """Which tokens pass through a layer. plans: whether it makes the plan of its tokens while it runs."""

    plans: ClassVar[bool] = False

    def follow(self, block: Layer, step: NextToken) -> bool:
        """Which tokens pass may be read from the layout; a part that reads none says so."""
        return False

    def forward(self, block: Layer, x: Tensor, plan: Plan, cache: Any) -> Tensor:
        """x (T, D) in tower order -> (T, D)."""
        raise NotImplementedError

    def cache(self, block: Layer, rows: int, length: int, like: Tensor) -> LayerCache:
        return block.parts.mixer.cache(block, rows, length, like)

    def reached(self, block: Layer, batch: Batch) -> Batch:
        """The batch of those tokens that pass through the layer, as far as costs go."""
        return batch


class Residual(Part):
    """How a sublayer's output joins the residual stream. Where there are several streams, R numbers of a token stand
    for its D; the backbone begins and ends with those of its first layer."""

    def begin(self, x: Tensor) -> Tensor:
        """x (T, D), the embedded tokens -> (T, R)."""
        return x

    def end(self, x: Tensor) -> Tensor:
        """(T, R) -> (T, D), what the final norm reads."""
        return x

    def read(self, block: Layer, x: Tensor, sublayer: str) -> Tensor:
        """(T, R) -> (T, D), what a sublayer reads."""
        return x

    def add(self, block: Layer, x: Tensor, y: Tensor, sublayer: str) -> Tensor:
        """x (T, R), y (T, D) -> (T, R). sublayer: "mixer" or "feed_forward"."""
        raise NotImplementedError


@dataclass(frozen=True)
class Parts:
    """What fills the slots of one layer."""

    mixer: Mixer
    reach: Reach
    bias: Bias
    head_choice: HeadChoice
    feed_forward: FeedForward
    activation: Activation
    norm: Norm
    depth: Depth
    residual: Residual

    def each(self) -> list[Part]:
        return [getattr(self, f.name) for f in fields(self)]


class Layer(Owned):
    """What parts may ask of a block: the owners of its parameters, its parts, its number; and what they added to it."""

    owners: Owners
    parts: Parts
    number: int
    layers: int
    routed = False  # whether tokens are routed among experts

    def prepare(self, batch: Batch) -> None:
        """Let the parts derive what they read of a batch."""
        for part in self.parts.each():
            part.prepare(self, batch)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...
