"""What training computes in chunks and on the host is what the model's plain functions give."""

import pytest
import torch
from tiny import MODALITIES, TEXT, generator, mixed, model, picture, words

from mot_gen.learning import token_losses as chunked
from mot_gen.learning.supervision import factors_of
from mot_gen.packing import pack
from mot_gen.sequence import Modality

MASKED = [TEXT, Modality("image", vocab_size=30, bidirectional=True, objective="masked")]


def gradients(net):
    found = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    return found


def plain(net, noisy, targets, weights):
    """Total, counts, and masked losses: from all logits at once."""
    losses, masks = net.losses(noisy, net(noisy), targets), net.loss_masks(noisy)
    counts = {name: float(mask.sum()) for name, mask in masks.items()}
    total = sum(weights[name] * (losses[name] * masks[name]).sum() / max(counts[name], 1.0) for name in losses)
    return total, counts, {name: (losses[name] * masks[name])[masks[name] > 0] for name in losses}


@pytest.mark.parametrize("at_once", [2**24, 7 * 80, 1], ids=["whole", "seven rows", "one row"])
@pytest.mark.parametrize("kind", ["mixed", "no pictures", "masked"])
def test_losses_and_gradients_are_those_of_all_logits(kind, at_once, monkeypatch):
    monkeypatch.setattr(chunked, "AT_ONCE", at_once)
    net = model(MASKED if kind == "masked" else MODALITIES).train()
    samples = {
        "mixed": mixed(6),
        "no pictures": [[words(9)], [words(4, 1)]],
        "masked": [[words(4), as_ids(picture())], [as_ids(picture(seed=1)), words(3)]],
    }[kind]
    noisy, targets = net.corrupt(pack(samples, net.modalities, 64), generator(0), tokens=True)
    weights = {name: 1.0 + index for index, name in enumerate(net.modality_names)}
    total, counts, losses = plain(net, noisy, targets, weights)
    total.backward()
    wanted = gradients(net)
    supervision = net.supervise(noisy, targets)
    assert supervision.counts == counts
    found = net(noisy, supervision, factors_of(weights, counts))
    found.total.backward()
    torch.testing.assert_close(found.total, total)
    torch.testing.assert_close(gradients(net), wanted, atol=1e-6, rtol=1e-4)
    for name, each in found.by_token.items():
        counted = supervision.latents[name].counted > 0 if name in supervision.latents else slice(None)
        torch.testing.assert_close(each[counted], losses[name], atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(net(noisy, supervision, factors_of(weights, counts)).total, total)


def as_ids(span):
    """A picture as discrete tokens."""
    span.values = torch.randint(30, (len(span),), generator=generator(len(span)))
    return span


def test_logits_of_all_tokens_never_exist(monkeypatch):
    """No tensor of a forward and backward pass has more elements than the chunks may."""
    monkeypatch.setattr(chunked, "AT_ONCE", 5000)
    head, hidden = torch.nn.Linear(8, 1000, bias=False), torch.randn(64, 8, requires_grad=True)
    ids = torch.randint(1000, (64,))
    largest = 0

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(out):
                largest = max(largest, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
            return out

    def loss(logits, ids):
        return torch.nn.functional.cross_entropy(logits, ids, reduction="none")

    with Largest():
        whole = chunked.Head(head, list(head.parameters()), 1000)
        chunked.token_losses(whole, loss, hidden, ids, None, 0.5)[0].backward()
    assert largest == 8000  # the head's own weight; all logits are 64,000
