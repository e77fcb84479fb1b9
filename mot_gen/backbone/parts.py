"""The parts of a block: a base class for each role, from Mixer to Residual; Parts, all of one layer; Layer, the block
as its parts see it. What all parts share is in part.py.

A *role* is a choice that every block makes: how tokens are mixed, what the feed-forward is, where the norm stands. A
*part* fills a role. It is a frozen dataclass whose fields are its options, in a file of the role's folder or of a
package of your own. Its class has the name of the role's base class here (`Mixer`, `FeedForward`, ...). named_parts.py
says how recipes name parts.

A part holds no weights. `modules` makes those that it adds to a block, and all other methods are given that block. So a
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
from mot_gen.backbone.experts.pools import Pool
from mot_gen.backbone.next_token import NextToken
from mot_gen.backbone.owners import Owners
from mot_gen.backbone.part import Modules, Part
from mot_gen.backbone.routing import Owned, Routing


class Mixer(Part):
    """How tokens read one another.

    norm: the name of the block's norm for this sublayer. reads: those of the roles `reach`, `bias` and `head_choice`
    whose parts it uses. A recipe may fill these roles only if some mixer uses them.
    """

    norm: ClassVar[str] = "attention_norm"
    reads: ClassVar[tuple[str, ...]] = ()

    def forward(self, block: Layer, x: Tensor, plan: Plan, cache: Any) -> Tensor:
        """x (T, D) in tower order -> (T, D). cache: what `cache` returned, or None where nothing is generated."""
        raise NotImplementedError

    def cache(self, block: Layer, rows: int, length: int, like: Tensor) -> LayerCache:
        """A new cache for `rows` rows of up to `length` tokens, with the device and dtype of `like`."""
        raise NotImplementedError

    def width_step(self) -> int:
        """The width of the model, D, must be a multiple of this."""
        return 1


class Reach(Part):
    """Which keys a query sees.

    grows: whether a newly generated token sees everything that the cache holds of its document.
    """

    grows: ClassVar[bool] = False

    def sees(self, query: Places, key: Places) -> Tensor:
        """bool, in the shape to which the places broadcast."""
        raise NotImplementedError

    def pairs(self, batch: Batch) -> int:
        """How many pairs of query and key are computed by a kernel that skips keys out of reach."""
        rows, length = batch.layout.shape
        return rows * length**2


class Bias(Part):
    """What is added to the scores of attention. A bias may also replace `attend` as a whole."""

    empty: ClassVar[bool] = False  # whether it leaves attention as it is

    def scores(self, block: Layer, query: Places, key: Places) -> Tensor | float:
        """Places (B, Q) and (B, K) -> (1 or B, 1 or H, Q, K), what is added to their scores."""
        raise NotImplementedError

    def attend(self, block: Layer, q: Tensor, k: Tensor, v: Tensor, mask: Any, plan: Plan) -> Tensor:
        """q (B, H, Q, K), k and v (B, G, N, K) -> (B, H, Q, K). mask: the mask rule's, to which `scores` are added."""
        return attend(q, k, v, mask)


class HeadChoice(Part):
    """Which heads of attention a token uses."""

    def weigh(self, block: Layer, x: Tensor, mixed: Tensor, plan: Plan) -> Tensor:
        """mixed (T, H * K), the heads' outputs for the tokens x (T, D) -> the same, each head times its weight."""
        raise NotImplementedError

    def active(self, block: Layer) -> int:
        """How many heads a token uses."""
        return block.heads


class FeedForward(Part):
    """What each token passes through by itself.

    empty: whether there is no feed-forward. matrices: how many projections of D x F it has, where F is its `ffn_dim`; 0
    for one that cannot be an expert.
    """

    empty: ClassVar[bool] = False
    matrices: ClassVar[int] = 0

    @property
    def step(self) -> int:
        """Its `ffn_dim`, if it has one, must be a multiple of this."""
        return 1

    def refuse_experts(self, config: Any) -> None:
        """InputError where the config asks for experts; for feed-forwards that cannot be experts."""
        if config.experts != 1 or config.shared_experts or config.router != "expert_choice":
            kind = type(self).__module__.rpartition(".")[2]
            raise self.refuse("kind", f"{kind} is no expert; drop backbone.experts, shared_experts and router")

    def forward(self, block: Layer, x: Tensor, plan: Plan) -> Tensor:
        """x (T, D) in tower order -> (T, D)."""
        return block.ffn(x, plan.routing)

    def modules(self, block: Layer) -> Modules:
        return {"ffn": self.unit(block, block.owners)}

    def unit(self, block: Layer, owners: Owners) -> nn.Module:
        """A module (x (n, D), Routing) -> (n, D), whose parameters `ffn` the owners make."""
        raise NotImplementedError


class Activation(Part):
    """The function of a feed-forward's hidden channels.

    Give `function` if it is a function of each channel by itself, with its `gradient` if that is known. Override
    `module` if it has parameters, or is a function of all channels together.
    """

    function: ClassVar[Callable[..., Tensor]]
    # (gradient of the output, input, tensor to write to) -> gradient of the input; None: autograd finds it.
    gradient: ClassVar[Any] = None

    def module(self, owners: Owners) -> nn.Module | None:
        """A module (hidden (n, F), Routing) -> (n, F), or None where `function` says it all."""
        return None


@dataclass
class Choice:
    """Which of a pool's n tokens go to which of its E experts: P pairs, sorted by expert.

    token: (P,) the token of each pair.
    gate: (P,) the weight of the expert's output.
    counts: (E,) int64, how many pairs each expert has.
    loss: what is added to the training loss, weighted, or None.
    known: `counts` as the host knows them, or None if they follow from the scores.
    """

    token: Tensor
    gate: Tensor
    counts: Tensor
    loss: Tensor | None = None
    known: list[int] | None = None


class Router(Part):
    """Which tokens go to which experts.

    scores: whether there is a learned vector for each expert, whose product with a token is the expert's score.
    """

    scores: ClassVar[bool] = True

    @property
    def on_grid(self) -> bool:
        """Whether it needs to know which tokens of a picture are neighbours."""
        return False

    @property
    def taken(self) -> int:
        """How many experts a token passes through, on average."""
        return 1

    def charged(self, number: int, learns: bool) -> int:
        """How many of `number` experts are counted in the FLOPs of a token. learns: while the model trains."""
        return self.taken

    def choose(self, logits: Tensor, pool: Pool) -> Choice:
        """logits: (n, E), the score of each expert for each token of the pool."""
        raise NotImplementedError


class Norm(Part):
    """Where the norm of a sublayer stands: before it, after it, or both."""

    def before(self, norm: nn.Module, x: Tensor, routing: Routing) -> Tensor:
        """The sublayer's input, from the residual stream x."""
        return x

    def after(self, norm: nn.Module, y: Tensor, routing: Routing) -> Tensor:
        """What joins the residual stream, from the sublayer's output y."""
        return y


class Depth(Part):
    """Which tokens pass through a layer.

    plans: whether the layer chooses its tokens while it runs, and so makes the plan for them itself.
    """

    plans: ClassVar[bool] = False

    def follow(self, block: Layer, step: NextToken) -> bool:
        """False by default, since the choice of tokens may depend on the layout."""
        return False

    def forward(self, block: Layer, x: Tensor, plan: Plan, cache: Any) -> Tensor:
        """x (T, D) in tower order -> (T, D)."""
        raise NotImplementedError

    def cache(self, block: Layer, rows: int, length: int, like: Tensor) -> LayerCache:
        return block.parts.mixer.cache(block, rows, length, like)

    def reached(self, block: Layer, batch: Batch) -> Batch:
        """The tokens that pass through the layer, as a batch; FLOPs and activations are counted for these."""
        return batch


class Residual(Part):
    """How a sublayer's output joins the residual stream.

    A token has R numbers in the stream: D, or more where there are several streams. `begin` and `end` of the first
    layer's part serve the whole backbone.
    """

    def begin(self, x: Tensor) -> Tensor:
        """x (T, D), the embedded tokens -> (T, R), the stream that the first block reads."""
        return x

    def end(self, x: Tensor) -> Tensor:
        """x (T, R), the stream after the last block -> (T, D), which the final norm reads."""
        return x

    def read(self, block: Layer, x: Tensor, sublayer: str) -> Tensor:
        """x (T, R) -> (T, D), the part of the stream that a sublayer reads."""
        return x

    def add(self, block: Layer, x: Tensor, y: Tensor, sublayer: str) -> Tensor:
        """The stream x (T, R) with a sublayer's output y (T, D) added -> (T, R).

        sublayer: "mixer" or "feed_forward".
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Parts:
    """The parts that fill the roles of one layer."""

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
    """A block as its parts see it, with all modules and attributes that they added to it.

    owners: makes the block's modules. number: of this layer, from 0. layers: how many there are.
    """

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
