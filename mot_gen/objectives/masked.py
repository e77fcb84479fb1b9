"""Objective: masked discrete diffusion (absorbing state), as in MaskGIT, Show-o and LLaDA.

At time t in [0, 1] every token of a span is replaced by the mask with probability m(t), each for itself. The network
reads the whole span and says what stood at the masked places. Two schedules m:

    cosine   m(t) = sin(pi t / 2)       MaskGIT (arXiv 2202.04200), Show-o (2408.12528)
    linear   m(t) = t                   LLaDA (2502.09992)

and two weights of a masked token's cross-entropy:

    uniform  1, averaged over the masked tokens (MaskGIT)
    bound    m'(t) / m(t), averaged over all tokens; for the linear schedule that is LLaDA's 1/t

Spans have a known size, as pictures have, or come in blocks: `block` tokens are drawn together, and blocks follow one
another (BD3-LM, arXiv 2503.09573). Then one block of each span is learned at a time, given the clean ones before it.

With the weight "bound" the expected loss is an upper bound of the negative log-likelihood in nats a token, under either
schedule. Training may take either weight; held-out losses always have the bound.

Shapes: N tokens of all spans, n spans, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor

from mot_gen.errors import InputError, nearest

SCHEDULES = ("cosine", "linear")
WEIGHTS = ("uniform", "bound")
ORDERS = ("confidence", "position")


@dataclass(frozen=True)
class Objective:
    """schedule, weight: see the module. By default "uniform" for cosine and "bound" for linear.

    cap: the largest time of a span that learned tokens follow in its document, since they read it as it stands. 0 keeps
    it clean, and then it does not learn (Show-o).
    order: which tokens the sampler reveals first, those of the highest "confidence" or by "position".
    choice_temperature: how much noise the confidence has at first. It falls to 0 at the last pass (MaskGIT).
    block: tokens of a block, where spans come in blocks; 0 where a span is drawn as a whole.
    """

    schedule: str = "cosine"
    weight: str | None = None
    cap: float = 0.0
    order: str = "confidence"
    choice_temperature: float = 1.0
    block: int = 0
    bidirectional = True  # not a field: tokens of a span, or of a block, see all of it

    def __post_init__(self):
        self._check_name("schedule", SCHEDULES)
        self._check_name("order", ORDERS)
        if self.weight is not None:
            self._check_name("weight", WEIGHTS)
        if not isinstance(self.block, int) or self.block < 0:
            raise InputError(f"objectives: masked.block must be a whole number of at least 0, got {self.block!r}")
        if not 0 <= self.cap <= 1:
            raise InputError(f"objectives: masked.cap must be in [0, 1], got {self.cap!r}")
        if not 0 <= self.choice_temperature < float("inf"):
            raise InputError(
                f"objectives: masked.choice_temperature must be at least 0, got {self.choice_temperature!r}"
            )

    def _check_name(self, option: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, option)
        if value not in allowed:
            raise InputError(f"objectives: masked.{option} {value!r} is not known" + nearest(value, allowed))

    # ------------------------------------------------------------ the schedule

    def masked_share(self, time: Tensor) -> Tensor:
        """m(t): the probability that a token is masked; 0 at time 0, 1 at time 1."""
        return torch.sin(pi / 2 * time) if self.schedule == "cosine" else time

    def bound_weight(self, time: Tensor) -> Tensor:
        """m'(t) / m(t), for times above 0."""
        if self.schedule == "linear":
            return 1 / time
        angle = pi / 2 * time
        return pi / 2 * angle.cos() / angle.sin()

    # ------------------------------------------------------------ training

    def sample_time(self, learned: Tensor, leads: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """learned, leads: (n,) bool -> (n,) times: 0 where a span only conditions, at most `cap` where it leads.

        The others are in (0, 1], spread evenly over the batch from one random start, which makes the loss less noisy
        than independent times do (the low-discrepancy sampler of Kingma et al. 2021).
        """
        n, device = len(learned), learned.device
        start = torch.rand((), generator=generator, device=device)
        order = torch.rand(n, generator=generator, device=device).argsort()
        time = 1 - (start + order / max(n, 1)) % 1
        return torch.where(leads, time * self.cap, time) * learned

    def mask(self, time: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """time (N,), one per token -> (N,) bool, which of them are masked."""
        return torch.rand(time.shape, generator=generator, device=time.device) < self.masked_share(time)

    def weigh(self, masked: Tensor, time: Tensor, bound: bool) -> tuple[Tensor, Tensor]:
        """masked (N,) bool, time (N,) -> (N,) weights of their losses, and (N,) bool: the tokens that are counted when
        the weighted sum is averaged. bound: give the likelihood bound, whatever the weight is in training."""
        counted = time > 0
        learned = self.weight or _USUAL_WEIGHT[self.schedule]
        if bound or learned == "bound":
            weight = torch.where(counted, self.bound_weight(time.clamp_min(1e-6)), 0.0)
            return weight * masked, counted
        return masked.float(), masked & counted

    def loss(self, logits: Tensor, ids: Tensor) -> Tensor:
        """logits (N, V), ids (N,) -> (N,) cross-entropies in nats, to be multiplied by the weights."""
        return F.cross_entropy(logits.float(), ids, reduction="none")


_USUAL_WEIGHT = {"cosine": "uniform", "linear": "bound"}
