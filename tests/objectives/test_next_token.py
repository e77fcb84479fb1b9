"""Noise on discrete tokens: how many are replaced, where, and that what is predicted stays."""

import pytest
import torch
from tiny import IMAGE, SPEECH, TEXT, generator, model, speech, words

from mot_gen.errors import InputError
from mot_gen.objectives.next_token import Objective
from mot_gen.packing import pack


def test_each_span_has_a_share_of_its_own_up_to_the_given_one():
    ids, span = torch.zeros(40 * 500, dtype=torch.long), torch.arange(40).repeat_interleave(500)
    read = Objective(replaced=0.5).replace(ids, span, 1_000_000, generator(0))
    shares = (read != 0).view(40, 500).float().mean(1)
    assert shares.max() < 0.6 and shares.min() < 0.1 and abs(shares.mean() - 0.25) < 0.08
    assert shares.std() > 0.1


def test_replacements_are_uniform_over_the_vocabulary():
    ids = torch.zeros(40_000, dtype=torch.long)
    counts = torch.bincount(Objective(replaced=1.0).replace(ids, torch.arange(40_000), 4, generator(0)), minlength=4)
    assert counts.sum() == 40_000 and (counts[1:] - 5000).abs().max() < 300  # half of the tokens, a quarter each


def test_without_noise_nothing_changes():
    ids = torch.arange(10)
    assert torch.equal(Objective().replace(ids, torch.zeros_like(ids), 10, generator(0)), ids)
    empty = ids[:0]
    assert Objective(replaced=0.5).replace(empty, empty, 10, generator(0)).shape == (0,)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_is_from_0_to_1(share):
    with pytest.raises(InputError, match="replaced"):
        Objective(replaced=share)


def test_the_model_replaces_only_what_it_reads_of_that_modality():
    objectives = {"speech": {"replaced": 1.0}}
    net = model([TEXT, IMAGE, SPEECH], objectives=objectives)
    batch = pack([[words(9), speech(30)], [speech(20, 1), words(4, 2), speech(10, 3)]] * 4, net.modalities, 60)
    noisy, _ = net.corrupt(batch, generator(0), tokens=True)
    again, _ = net.corrupt(batch, generator(0), tokens=True)
    clean, _ = net.corrupt(batch, generator(0))
    first, end = net.vocabulary.range("speech")
    spoken = (batch.ids >= first) & (batch.ids < end)
    changed = noisy.ids != batch.ids
    assert 0.2 < changed[spoken].float().mean() < 0.7 and not changed[~spoken].any()
    assert ((noisy.ids[spoken] >= first) & (noisy.ids[spoken] < end)).all()
    assert torch.equal(again.ids, noisy.ids) and torch.equal(clean.ids, batch.ids)
    assert torch.equal(noisy.target_ids, batch.target_ids)


def test_text_is_noised_without_its_special_tokens_and_the_slots_of_others():
    net = model([TEXT, IMAGE, SPEECH], objectives={"text": {"replaced": 1.0}})
    batch = pack([[words(9), speech(8)]] * 6, net.modalities, 40)
    noisy, _ = net.corrupt(batch, generator(0), tokens=True)
    own = (batch.layout.modality == 0) & (batch.ids < TEXT.vocab_size) & (batch.layout.document >= 0)
    assert (noisy.ids != batch.ids)[own].any() and torch.equal(noisy.ids[~own], batch.ids[~own])
