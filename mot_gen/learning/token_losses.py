"""token_losses, of a Head: the losses of discrete tokens, without all of their logits in memory at once.

A head over a large vocabulary writes far more numbers than the model that stands before it: 8,192 tokens have 1 GB of
logits over 32,000 words, and as many gradients. So the head, the loss and the gradients of both are computed together,
some tokens after the other, and only the gradients are kept. Nothing is computed twice. (Wijmans et al. 2024, arXiv
2411.09009, and Liger Kernel do likewise in kernels of their own.)

Shapes: m tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mot_gen.errors import expect

AT_ONCE = 2**24  # logits in memory, 64 MiB in fp32

Loss = Callable[[Tensor, Tensor], Tensor]  # logits (m, V) and ids (m,) -> (m,)


@dataclass
class Head:
    """What turns hidden states into logits.

    logits: hidden states (m, D) -> (m, size), by way of the parameters. first: the joint id of the first logit.
    """

    logits: Callable[[Tensor], Tensor]
    parameters: Sequence[nn.Parameter]
    size: int
    first: int = 0

    @property
    def at_once(self) -> int:
        """How many tokens' logits are computed at a time."""
        return max(1, AT_ONCE // self.size)


def token_losses(
    head: Head, loss: Loss, hidden: Tensor, ids: Tensor, weight: Tensor | None, factor: float
) -> tuple[Tensor, Tensor]:
    """factor * sum of the weighted losses, which has gradients, and the weighted losses (m,), which have none.

    hidden (m, D), ids (m,). weight: (m,) of each token, or None for 1.
    """
    if not torch.is_grad_enabled():
        pieces = [_weighted(head, loss, *part) for part in _chunks(head, hidden, ids, weight)]
        losses = torch.cat(pieces)
        return factor * losses.sum(), losses
    return _TokenLosses.apply(hidden, head, loss, ids, weight, factor, *head.parameters)


def _chunks(
    head: Head, hidden: Tensor, ids: Tensor, weight: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Hidden states, ids and weights of `head.at_once` tokens at a time.

    Without tokens there is one empty chunk, so that the head gets gradients in any case.
    """
    size = head.at_once
    for start in range(0, max(1, len(hidden)), size):
        own = slice(start, start + size)
        yield hidden[own], ids[own], None if weight is None else weight[own]


def _weighted(head: Head, loss: Loss, hidden: Tensor, ids: Tensor, weight: Tensor | None) -> Tensor:
    losses = loss(head.logits(hidden), ids)
    what = f"objectives: loss(logits, ids) must give one number for each token, of the shape {tuple(ids.shape)}"
    expect(losses.shape == ids.shape, what, tuple(losses.shape))
    return losses if weight is None else losses * weight


class _TokenLosses(torch.autograd.Function):
    # Forward computes the gradients as well, since it knows the factor by which the sum of losses will count.
    @staticmethod
    def forward(ctx, hidden, head, loss, ids, weight, factor, *parameters):
        grad_hidden = torch.empty_like(hidden)
        learned = [p for p in parameters if p.requires_grad]
        grads: list[Tensor] = []
        losses = []
        places = grad_hidden.split(head.at_once)
        for place, (part, own_ids, own_weight) in zip(places, _chunks(head, hidden, ids, weight)):
            with torch.enable_grad():
                part = part.detach().requires_grad_()
                each = _weighted(head, loss, part, own_ids, own_weight)
                total = each.sum()
            # Zeros for what the logits do not depend on: embeddings that stand beside a head.
            upstream = torch.full_like(total, factor)
            found = torch.autograd.grad(total, [part, *learned], upstream, allow_unused=True, materialize_grads=True)
            place.copy_(found[0])
            if not grads:
                grads = list(found[1:])
            else:
                for old, new in zip(grads, found[1:]):
                    old.add_(new)
            losses.append(each.detach())
        joined = torch.cat(losses)
        ctx.save_for_backward(grad_hidden, *grads)
        ctx.learned = [p.requires_grad for p in parameters]
        ctx.mark_non_differentiable(joined)
        return factor * joined.sum(), joined

    @staticmethod
    def backward(ctx, grad, _):
        grad_hidden, *grads = ctx.saved_tensors
        remaining = iter(grads)
        own = [next(remaining) * grad if learned else None for learned in ctx.learned]
        return grad_hidden * grad, None, None, None, None, None, *own
