"""The choices of experts under a reward: recorded as they were made, and learned."""

import json
import warnings

import pytest
import torch
from tiny_rewards import BRIGHT, begin, learn, rewarded, texts_of

from mot_gen.errors import InputError
from mot_gen.reinforce.moe_grpo import record_routes
from mot_gen.training.runs import prepare

SYMBIOTIC = ["backbone.kind=symbiotic", "backbone.experts=3", "backbone.top_k=2"]


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    return begin(tmp_path_factory.mktemp("origin") / "run", *SYMBIOTIC)


def asked(origin, *overrides):
    return rewarded("digits-reward", origin, *BRIGHT, *SYMBIOTIC, "reinforce.experts=1.0", *overrides)


def test_what_routers_said_is_recorded(origin, tmp_path):
    """The module's own scores, by hand; and nothing of it is left behind."""
    model = prepare(asked(origin), tmp_path).model
    layer = model.backbone.blocks[0].ffn
    seen, router = [], layer.choose
    layer.register_forward_pre_hook(lambda module, given: seen.append(given))
    run_batch = texts_of(prepare(asked(origin), tmp_path))
    with record_routes(model) as routes:
        model(run_batch)
    ((x, pools),) = seen
    parts = zip(x.split(pools.counts), layer.router.split(layer.experts), routes.scores[0], routes.experts()[0])
    for tokens, weights, scores, experts in parts:
        exact = (tokens @ weights.t()).log_softmax(-1)
        assert torch.allclose(scores, exact, atol=1e-6) and torch.equal(experts, exact.topk(2).indices)
    log_probs = routes.log_probs(routes.experts())
    assert log_probs.shape == (x.shape[0],) and (log_probs < 0).all()
    with warnings.catch_warnings(action="error"):  # the scores have gradients, and the entropy needs none
        entropy = routes.entropy()
    assert 0 < entropy < torch.tensor(3.0).log() and layer.choose is router


def test_one_expert_is_no_choice():
    from mot_gen.reinforce.moe_grpo import Routes

    routes = Routes([[None, None]], [[3, 2]], [1])
    assert torch.equal(routes.log_probs(routes.experts()), torch.zeros(5)) and routes.entropy() == 0


def test_routers_are_moved_by_the_reward(origin, tmp_path):
    """Beside the same run without that part of the loss."""
    runs = {}
    for experts in ("1.0", "0.0"):
        recipe = asked(origin, "training.steps=1", f"reinforce.experts={experts}")
        runs[experts] = learn(recipe, tmp_path / experts)
    routers = [dict(run.model.named_parameters())["backbone.blocks.0.ffn.router"] for run in runs.values()]
    assert not torch.equal(*routers)
    (line,) = [json.loads(text) for text in (tmp_path / "1.0" / "metrics.jsonl").read_text().splitlines()]
    assert 0 < line["routing_entropy"] < 1.1 and line["losses"]["image"] == pytest.approx(0, abs=1e-2)


def test_a_model_without_experts_is_refused(tmp_path):
    dense = begin(tmp_path / "dense")
    with pytest.raises(InputError, match=r"reinforce\.experts: in this model no token chooses an expert"):
        learn(rewarded("digits-reward", dense, *BRIGHT, "reinforce.experts=1.0"), tmp_path / "run")
