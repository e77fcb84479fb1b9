"""Masked diffusion of tokens: the bound and the sampler against a joint that is known in closed form, and the batch."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from numpy.polynomial.legendre import leggauss
from tiny import TEXT, generator, model, words

from mot_gen.errors import InputError
from mot_gen.objectives import load
from mot_gen.objectives.masked import Objective
from mot_gen.packing import pack, unpack
from mot_gen.pipelines.engine.decoding import TextSampling
from mot_gen.pipelines.engine.masked import MASKED, reveal
from mot_gen.sequence import Modality, Span, Vocabulary

N, K = 4, 3  # tokens of the toy, and ids
STATES = torch.tensor(list(itertools.product(range(K), repeat=N)))
JOINT = torch.randn(K**N, generator=generator(0), dtype=torch.float64).mul(1.5).softmax(0)


def conditionals(ids):
    """ids (R, N), MASKED where unknown -> (R, N, K) exact log-probabilities of every place given what is known."""
    fits = ((ids[:, None] == STATES) | (ids[:, None] == MASKED)).all(-1)
    mass = torch.where(fits, JOINT, 0.0)
    found = torch.stack([(mass[:, :, None] * (k == STATES)).sum(1) for k in range(K)], -1)
    return (found / mass.sum(1)[:, None, None]).clamp_min(1e-300).log()


def bound_of(predict, objective, times=400):
    """(K**N,) the exact expectation of the objective's loss as a bound, for every state: all masks, all times.

    The times are Gauss-Legendre points, each mask counts with its probability, and the losses are those of `loss`.
    """
    nodes, weights = map(torch.from_numpy, leggauss(times))
    total = torch.zeros(K**N, dtype=torch.float64)
    for mask in itertools.product([False, True], repeat=N):
        masked = torch.tensor(mask)
        logits = predict(torch.where(masked, MASKED, STATES))
        losses = F.cross_entropy(logits.flatten(0, 1), STATES.flatten(), reduction="none").view(-1, N)
        for node, weight in zip((nodes + 1) / 2, weights / 2):
            share = objective.masked_share(node)
            probability = share ** masked.sum() * (1 - share) ** (~masked).sum()
            by_token, _ = objective.weigh(masked, node.expand(N), bound=True)
            total += weight * probability * (losses * by_token).sum(1)
    return total


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_bound_is_tight_for_exact_conditionals(schedule):
    """Any order of the exact conditionals is the chain rule, so the mean over masks is the exact likelihood."""
    found = bound_of(conditionals, Objective(schedule=schedule), times=24)
    torch.testing.assert_close(found, -JOINT.log(), atol=1e-6, rtol=0)


def test_the_bound_is_never_below_the_likelihood_of_what_the_model_draws():
    """A network that errs has a likelihood by its passes in random order, and the bound is above that."""

    def erring(ids):
        known = (ids != MASKED).sum(1, keepdim=True)[..., None]
        return conditionals(ids) * (0.4 + 0.2 * known) + 0.3 * torch.arange(K) * (ids[:, :1, None] == 1)

    likelihood = torch.zeros(K**N, dtype=torch.float64)
    for order in itertools.permutations(range(N)):
        log_p, ids = torch.zeros(K**N, dtype=torch.float64), torch.full_like(STATES, MASKED)
        for place in order:
            log_p += erring(ids).log_softmax(-1)[:, place].gather(1, STATES[:, place, None])[:, 0]
            ids[:, place] = STATES[:, place]
        likelihood += log_p.exp() / math.factorial(N)
    assert likelihood.sum().item() == pytest.approx(1)
    for schedule in ("cosine", "linear"):
        bound = bound_of(erring, Objective(schedule=schedule), times=24)
        assert (bound >= -likelihood.log() - 1e-9).all() and (bound > -likelihood.log() + 1e-3).any()


@pytest.mark.parametrize("order", ["position", "confidence"])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_one_token_a_pass_is_the_chain_rule(order, schedule):
    """The log-probabilities of what is revealed sum up to the exact joint's, greedily and by chance, in any order."""
    objective, start = Objective(order=order, schedule=schedule), torch.full((5, N), MASKED)
    for sampling in (TextSampling(temperature=0.0), TextSampling(temperature=1.0)):
        generators = [generator(seed) for seed in range(5)]
        ids, log_p = reveal(conditionals, start, objective, N, sampling, generators)
        place = (ids * K ** torch.arange(N - 1, -1, -1)).sum(1)
        torch.testing.assert_close(log_p.double(), JOINT.log()[place], atol=1e-6, rtol=1e-6)


def test_greedy_by_position_is_greedy_next_token_decoding():
    ids, _ = reveal(conditionals, torch.full((1, N), MASKED), Objective(order="position"), N, TextSampling())
    chain = torch.full((1, N), MASKED)
    for place in range(N):
        chain[0, place] = conditionals(chain)[0, place].argmax()
    assert torch.equal(ids, chain)


def test_one_token_a_pass_by_chance_draws_the_joint():
    count = 20_000
    start = torch.full((count, N), MASKED)
    torch.manual_seed(0)
    ids, _ = reveal(conditionals, start, Objective(order="position"), N, TextSampling(temperature=1.0))
    counts = torch.bincount((ids * K ** torch.arange(N - 1, -1, -1)).sum(1), minlength=K**N)
    assert (counts / count - JOINT).abs().max() < 0.01


@pytest.mark.parametrize("steps", [1, 3, 6, 16, 40])
def test_passes_reveal_what_the_schedule_says(steps):
    """Of 16 tokens; what is known stays, and the surest come first where the order has no noise."""
    confidence = torch.randn(2, 16, 5, generator=generator(1)) * torch.arange(1, 17)[None, :, None]
    start = torch.full((2, 16), MASKED)
    start[1, 3] = 4
    shown, calls = [], []

    def predict(ids):
        calls.append(ids)
        return confidence

    objective = Objective(choice_temperature=0.0)
    ids, _ = reveal(predict, start, objective, steps, TextSampling(), None, lambda done: shown.append(done.ids))
    passes = min(steps, 16)
    assert len(calls) == len(shown) == passes and (ids != MASKED).all() and ids[1, 3] == 4
    left = [int((each[0] == MASKED).sum()) for each in shown]
    if passes < 16:
        assert left == [math.floor(16 * math.cos(math.pi / 2 * s / passes) + 1e-6) for s in range(1, passes + 1)]
    else:
        assert left == list(range(15, -1, -1))
    log_p = confidence.log_softmax(-1).amax(-1)[0]
    first = shown[0][0] != MASKED
    assert log_p[first].min() >= log_p[~first].max() if (~first).any() else True


def test_a_sample_does_not_depend_on_its_batch():
    objective, sampling = Objective(choice_temperature=2.0), TextSampling(temperature=1.0)
    both, _ = reveal(conditionals, torch.full((2, N), MASKED), objective, 2, sampling, [generator(1), generator(2)])
    alone, _ = reveal(conditionals, torch.full((1, N), MASKED), objective, 2, sampling, [generator(2)])
    assert torch.equal(both[1:], alone)


def test_a_sampler_that_is_stopped_reveals_all_at_once():
    calls = []
    stopped = lambda: len(calls) == 2  # noqa: E731
    predict = lambda ids: calls.append(ids) or conditionals(ids)  # noqa: E731
    ids, _ = reveal(predict, torch.full((1, N), MASKED), Objective(), N, TextSampling(), stopped=stopped)
    assert len(calls) == 2 and (ids != MASKED).all()


# ---------------------------------------------------------------- in a batch

TOKENS = Modality("image", vocab_size=20, bidirectional=True, objective="masked")


def tokens(n=6, seed=0, learned=True):
    return Span("image", torch.randint(20, (n,), generator=generator(seed)), (1, n), learned)


def masked_model(**options):
    return model([TEXT, TOKENS], objectives={"image": options})


def test_the_vocabulary_has_a_mask_that_no_tokenizer_makes():
    vocabulary = Vocabulary([TEXT, TOKENS])
    mask = vocabulary.mask["image"]
    assert vocabulary.special == {*range(50, 55)} and mask == 54 and vocabulary.range("image") == (55, 75)
    assert Vocabulary([TEXT, Modality("image", vocab_size=20)]).mask == {}


def test_a_masked_span_predicts_its_own_tokens_and_its_end_is_given():
    net = masked_model()
    sample = [words(3), tokens(4), words(2, 1)]
    batch = pack([sample], net.modalities, 24)
    image = (batch.layout.modality[0] == 1).nonzero().flatten()
    own = torch.isin(batch.target_slots, image)
    assert torch.equal(batch.target_slots[own], image) and torch.equal(batch.target_ids[own], batch.ids[0, image])
    assert net.vocabulary.end["image"] not in batch.target_ids and net.vocabulary.begin["image"] in batch.target_ids
    text = batch.target_slots[~own]
    assert torch.equal(batch.target_ids[~own], batch.ids[0, text + 1])
    (again,) = unpack(batch, net.modalities)
    assert [torch.equal(a.values, b.values) for a, b in zip(again, sample)] == [True] * 3


def test_only_masked_tokens_carry_loss_and_only_what_is_masked_is_hidden():
    net = masked_model()
    batch = pack([[words(3, i), tokens(6, i)] for i in range(40)], net.modalities, 64)
    noisy, targets = net.corrupt(batch, generator(0), tokens=True)
    hidden = noisy.ids == net.vocabulary.mask["image"]
    assert 0.4 < hidden.sum() / 240 < 0.9 and torch.equal(noisy.ids[~hidden], batch.ids[~hidden])
    assert (batch.layout.modality[hidden] == 1).all()
    mask = net.loss_masks(noisy)["image"].bool()
    assert torch.equal(noisy.target_slots[mask], hidden.flatten().nonzero().flatten())
    losses = net.losses(noisy, net(noisy), targets)["image"][mask]
    logits = net(noisy).logits[mask]
    exact = F.cross_entropy(logits, noisy.target_ids[mask], reduction="none")
    torch.testing.assert_close(losses, exact)


def test_held_out_losses_are_the_bound_under_either_weight():
    for schedule, weight in (("cosine", None), ("linear", "uniform")):
        net = masked_model(schedule=schedule, weight=weight)
        batch = pack([[words(3, i), tokens(6, i)] for i in range(20)], net.modalities, 64)
        noisy, targets = net.corrupt(batch, generator(0))
        counted = net.loss_masks(noisy)["image"].bool()
        assert counted.sum() == 120
        losses = net.losses(noisy, net(noisy), targets)["image"][counted]
        hidden = noisy.ids.flatten()[noisy.target_slots[counted]] == net.vocabulary.mask["image"]
        assert (losses[hidden] > 0).all() and not losses[~hidden].any()


def test_what_is_read_or_only_conditions_stays_clean():
    """A span before learned text is masked up to `cap` alone, by default not at all; one that is not learned never."""
    documents = [[tokens(6, i), words(3, i)] for i in range(20)] + [[tokens(6, i, learned=False)] for i in range(5)]
    documents += [[words(2), tokens(6, 30 + i)] for i in range(5)]
    batch = pack(documents, masked_model().modalities, 64)
    first = {}
    for cap in (0.0, 0.4):
        net = masked_model(cap=cap, schedule="linear")
        noisy, _ = net.corrupt(batch, generator(1), tokens=True)
        hidden = noisy.ids == net.vocabulary.mask["image"]
        first[cap] = hidden.sum().item()
        assert net.loss_masks(noisy)["text"].sum() == net.loss_masks(net.corrupt(batch)[0])["text"].sum()
    assert 5 <= first[0.0] <= 30 and 12 < first[0.4] - first[0.0] < 60


def test_a_later_token_changes_no_earlier_one_and_a_span_sees_all_of_itself():
    net = masked_model()
    one = pack([[words(3), tokens(4), words(2, 1)]], net.modalities, 20)
    two = pack([[words(3), tokens(4), words(2, 2)]], net.modalities, 20)
    x = [net.backbone(net.embed(b)[0], b.layout) for b in (one, two)]
    torch.testing.assert_close(x[0][:, :10], x[1][:, :10])
    swapped = pack([[words(3), tokens(4), words(2, 1)]], net.modalities, 20)
    last = (swapped.layout.modality[0] == 1).nonzero().max()
    swapped.ids[0, last] = net.vocabulary.mask["image"]
    changed = (net.backbone(net.embed(swapped)[0], swapped.layout) - x[0]).abs().amax(-1)[0] > 1e-6
    assert changed.tolist() == [False] * 5 + [True] * 4 + changed.tolist()[9:] and changed[last + 1]


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"schedule": "cosin"}, "masked.schedule 'cosin' is not known; did you mean 'cosine'"),
        ({"weight": "bond"}, "did you mean 'bound'"),
        ({"order": "random"}, "masked.order 'random'"),
        ({"cap": 1.5}, "masked.cap must be in"),
        ({"choice_temperature": math.inf}, "choice_temperature must be at least 0, got inf"),
    ],
)
def test_bad_options_are_refused(options, complaint):
    with pytest.raises(InputError, match=complaint):
        load("masked", options)


@pytest.mark.parametrize(
    "modalities, complaint",
    [
        (
            [TEXT, Modality("image", vocab_size=5, objective="masked")],
            "'image': bidirectional must be true: masked",
        ),
        (
            [TEXT, Modality("image", vocab_size=5, bidirectional=True)],
            "'image': bidirectional must be false: tokens come",
        ),
        (
            [Modality("text", vocab_size=5, bidirectional=True), TEXT],
            "'text' is the first and comes one by one, or in blocks",
        ),
    ],
)
def test_a_modality_is_read_as_its_objective_needs(modalities, complaint):
    with pytest.raises(InputError, match=complaint):
        model(modalities)
