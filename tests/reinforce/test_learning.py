"""Steps of learning from rewards: what moves, what does not, going on to the bit, and what is refused."""

import json

import pytest
import torch
from ranks import launch
from reward_jobs import two_steps
from tiny_rewards import BOTH, BRIGHT, UNWATCHED, WORDS, begin, learn, parameters, rewarded, texts_of

from mot_gen.errors import InputError
from mot_gen.model import MultimodalModel
from mot_gen.reinforce import nft_steps
from mot_gen.reinforce.actions import ActionBuilder, TrainedSample
from mot_gen.reinforce.documents import NEVER
from mot_gen.reinforce.learner import Learner, RewardedSamples, samples_of
from mot_gen.reinforce.nft import goodness
from mot_gen.reinforce.policy import Policy
from mot_gen.reinforce.prompts import Prompts
from mot_gen.training.runs import prepare

NFT = "reinforce.method=nft"
KINDS = {
    "pictures": ("digits-reward", BRIGHT),
    "texts": ("digits-reward", WORDS),
    "both": ("digits-reward", BOTH),
    "beside data": ("digits-reward", [*BRIGHT, "reinforce.data_weight=0.5", "reinforce.data_every=2"]),
    "nft": ("digits-nft", BRIGHT),
}


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    return begin(tmp_path_factory.mktemp("origin") / "run")


def bright(origin, *overrides):
    return rewarded("digits-reward", origin, *BRIGHT, *overrides)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_six_steps_are_three_and_three_more(origin, tmp_path, kind):
    recipe, rewards = KINDS[kind]
    asked = [*rewards, "training.lr=5e-4", "training.min_lr=5e-4"]  # one rate for all steps
    six = rewarded(recipe, origin, *asked, "training.steps=6")
    whole = learn(six, tmp_path / "whole")
    learn(rewarded(recipe, origin, *asked, "training.steps=3"), tmp_path / "parts")
    parts = learn(six, tmp_path / "parts", resume=True)
    for (name, one), other in zip(parameters(whole).items(), parameters(parts).values()):
        assert torch.equal(one, other), name
    for one, other in zip(lines(tmp_path / "whole"), lines(tmp_path / "parts"), strict=True):
        assert one["rewards"] == other["rewards"] and one["losses"] == other["losses"]
        assert one.get("data_losses") == other.get("data_losses")
    seen = {step: set(one["data_losses"]) for step, one in enumerate(lines(tmp_path / "whole")) if "data_losses" in one}
    assert seen == {step: {"text", "image"} for step in reads_data(six)}


def reads_data(recipe):
    """The steps of six that read data, counted from 0."""
    section = recipe.reinforce
    return [step for step in range(6) if section.data_weight and step % section.data_every == 0]


def test_data_of_every_other_step_weigh_twice_as_much(origin, tmp_path):
    rare = bright(origin, "training.steps=1", "reinforce.data_weight=0.25", "reinforce.data_every=2")
    often = bright(origin, "training.steps=1", "reinforce.data_weight=0.5")
    for recipe, name in [(rare, "rare"), (often, "often")]:
        learn(recipe, tmp_path / name)
    ((one,), (other,)) = lines(tmp_path / "rare"), lines(tmp_path / "often")
    assert one["data_losses"] == other["data_losses"] and one["grad_norm"] == other["grad_norm"]


def test_nft_draws_by_the_solver_that_is_named(origin, tmp_path):
    drawn = {}
    for solver in ("null", "euler", "unipc"):
        recipe = rewarded("digits-nft", origin, *BRIGHT, f"reinforce.solver={solver}")
        learner = Learner(prepare(recipe, tmp_path / solver))
        drawn[solver] = samples_of(learner.groups()).images
    assert torch.equal(drawn["euler"], drawn["null"]) and not torch.equal(drawn["unipc"], drawn["null"])


def test_nft_needs_no_flow(tmp_path):
    diffusion = "objectives.image={kind: diffusion, weight: 5.0}"
    origin = begin(tmp_path / "origin", diffusion)
    recipe = rewarded("digits-nft", origin, *BRIGHT, diffusion, "training.steps=2", "reinforce.solver=null")
    learn(recipe, tmp_path / "run")
    with pytest.raises(InputError, match=r"reinforce\.solver: 'unipc' .* by flow; .* for diffusion"):
        learn(rewarded("digits-nft", origin, *BRIGHT, diffusion, "reinforce.solver=unipc"), tmp_path / "refused")
    first, second = lines(tmp_path / "run")
    assert first["losses"]["image"] > 0 and second["losses"] != first["losses"]


def test_nft_reads_the_groups_whose_rewards_differ_and_all_under_a_penalty(origin, tmp_path):
    unequal = torch.tensor([[0.5, 0.5, 0.5], [0.0, 1.0, float("nan")]])
    read = {}
    for penalty in (0.0, 0.1):
        recipe = rewarded("digits-nft", origin, *BRIGHT, f"reinforce.penalty={penalty}")
        learner = Learner(prepare(recipe, tmp_path / str(penalty)))
        made = nft_steps._batches(learner, RewardedSamples(learner.groups(), unequal, {}))
        read[penalty] = torch.cat([batch.good for batch in made])
    bad, best = goodness(torch.tensor([-(0.5**0.5), 0.5**0.5]))
    draws = learner.section.draws
    expected = torch.stack([bad, best]).repeat_interleave(draws)
    assert torch.allclose(read[0.0], expected, atol=1e-3)
    assert torch.allclose(read[0.1], torch.cat([torch.full((3 * draws,), 0.5), expected]), atol=1e-3)


def test_two_processes_are_one(origin, tmp_path):
    alone = two_steps(0, origin, tmp_path / "one")
    for each in launch(2, two_steps, origin, tmp_path / "two"):
        for method, expected in alone.items():
            assert each[method]["rewards"] == pytest.approx(expected["rewards"], abs=1e-6)
            for name, value in expected["weights"].items():
                assert torch.allclose(each[method]["weights"][name], value, atol=1e-6), name


@pytest.fixture(scope="module")
def learner(origin, tmp_path_factory):
    recipe = rewarded("digits-reward", origin, *BOTH)
    return Learner(prepare(recipe, tmp_path_factory.mktemp("learner")))


@pytest.fixture(scope="module")
def rollouts(learner):
    return [rollout for group in learner.groups() for rollout in group.rollouts]


def test_prompts_ask_in_all_phrasings_from_the_first(learner):
    """Each sample in turn by all of its captions; and a few prompts are not all in one phrasing."""
    section = learner.section.model_copy(update={"writes": ["image"], "given": None})
    samples = learner.run.splits.train[:10]
    prompts = Prompts(samples, section, seed=0)
    turns = len(samples[0].captions)
    asked = prompts.take(learner.pipeline(), range(turns * len(samples)))
    phrasings = [list(prompt.references).index(prompt.text) for prompt in asked]
    assert len(set(phrasings[: len(samples)])) > 1
    for sample in samples:
        assert {prompt.text for prompt in asked if prompt.name == sample.id} == set(sample.captions)


def said_of(learner, rollouts, steps):
    """The batches of these rollouts and what the model says of them."""
    policy = Policy(learner.section, learner.ids, learner.sampler.flow, learner.run.model)
    times = learner.sampler.flow.times(learner.section.num_inference_steps)
    weighing = ActionBuilder(learner.run.model, times, per_answer=True)
    batches = weighing.batches([TrainedSample(rollout, 1.0, steps) for rollout in rollouts], 1000, 64)
    return [(actions, policy.evaluate(actions, learner.run.model(actions.batch))) for actions in batches]


def test_every_step_has_the_gaussian_that_it_was_drawn_from(learner, rollouts):
    """The sampler's own noise is drawn again, and stands where mean and deviation say."""
    for number, rollout in enumerate(rollouts):
        generator = learner.generator("rollout", number)
        torch.rand(len(rollout.spans[0]) + 1, generator=generator)  # of its text, and of what ended it
        assert torch.equal(torch.randn(16, 4, generator=generator), rollout.noisy[0])
        noise = [torch.randn(16, 4, generator=generator) for _ in range(3)]
        for step in (0, 1):
            ((actions, said),) = said_of(learner, [rollout], [step])
            own = actions.weight > 0
            drawn = (actions.after - said.mean) / said.std
            assert own.sum() == 16 and torch.allclose(drawn[own], noise[step], atol=1e-4)


def test_only_what_was_chosen_counts(learner, rollouts):
    """The tokens of a text and its end, unless the most tokens ended it; no bounds, and nothing of the prompt."""
    for rollout in rollouts:
        ((actions, _),) = said_of(learner, [rollout], [])
        counted = actions.batch.target_ids[actions.allowed != NEVER].tolist()
        written = rollout.spans[0].values.tolist()
        end = [learner.run.model.vocabulary.begin["image"]] if len(written) < 5 else []
        assert counted == written + end and rollout.ended == bool(end)
        assert actions.token_weight.sum().item() == pytest.approx(1)


def test_texts_have_the_probability_that_they_were_drawn_with(learner, rollouts):
    """Of all ids of the vocabulary those that may come share the probability; drawn greedily at temperature 0, hence
    the likeliest of them comes."""
    model = learner.run.model
    ((actions, said),) = said_of(learner, rollouts[:1], [])
    logits = model(actions.batch).logits
    mine = actions.allowed != NEVER
    writable = model.vocabulary.writable("text")
    for place in mine.nonzero().flatten().tolist():
        may = writable.clone()
        may[model.vocabulary.begin["image"]] = place > 0
        exact = logits[place].double().exp() * may
        wanted = actions.batch.target_ids[place]
        assert said.tokens[place].item() == pytest.approx((exact[wanted] / exact.sum()).log().item(), abs=1e-5)


@pytest.mark.parametrize("name", ["digits-reward", "digits-nft"])
def test_equal_rewards_move_nothing(origin, tmp_path, name):
    alone = ["reinforce.penalty=0.0", "reinforce.data_weight=0.0"]
    rewards = ["reinforce.rewards={same: {kind: 'tiny_rewards:same'}}", UNWATCHED]
    recipe = rewarded(name, origin, "training.steps=2", *alone, *rewards)
    run = learn(recipe, tmp_path / "run")
    before = MultimodalModel.from_pretrained(str(origin / "model" / "model"))
    for name, value in before.named_parameters():
        assert torch.equal(value, dict(run.model.named_parameters())[name]), name
    assert [line["equal_groups"] for line in lines(tmp_path / "run")] == [2, 2]


def test_the_first_update_is_exactly_on_policy_and_the_second_is_not(origin, tmp_path):
    """At ratio 1 the loss is the mean of minus the advantages, 0; later updates see the old policy."""
    once = learn(bright(origin, "training.steps=1", "reinforce.penalty=0.0"), tmp_path / "once")
    assert lines(once.folder)[0]["losses"]["image"] == pytest.approx(0, abs=1e-6)
    two = ["training.steps=1", "reinforce.penalty=0.0", "reinforce.updates=2"]
    twice = learn(bright(origin, *two), tmp_path / "twice")
    assert lines(twice.folder)[0]["losses"]["image"] < -1e-6


def test_adapters_of_the_picture_tower_leave_text_alone(origin, tmp_path):
    lora = "backbone.lora={towers: [image], rank: 2}"
    run = learn(bright(origin, "training.steps=2", lora), tmp_path / "run")
    before = MultimodalModel.from_pretrained(str(origin / "model" / "model"))
    moved = [name for name, p in run.model.named_parameters() if ".adapter.b" in name and p.any()]
    batch = texts_of(run)
    assert moved and torch.equal(run.model.eval()(batch).logits, before.eval()(batch).logits)


def test_rewards_that_fail_are_named_and_skipped_to_a_cap(origin, tmp_path):
    failing = "reinforce.rewards={sometimes: {kind: 'tiny_rewards:sometimes'}}"
    learn(bright(origin, failing, "training.steps=1", "training.max_corrupt=6"), tmp_path / "some")
    (line,) = lines(tmp_path / "some")
    assert 0 < line["without_reward"] <= 6
    with pytest.raises(InputError, match=r"digits/\d+: reward sometimes failed: too dark.*training\.max_corrupt"):
        learn(bright(origin, failing, "training.steps=9", "training.max_corrupt=0"), tmp_path / "none")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["reinforce.group=1"], r"reinforce\.group should be greater than or equal to 2"),
        (["reinforce.noise=0.0"], r"noise: a sampler without noise chooses nothing"),
        (["reinforce.solver=unipc"], r"solver: grpo draws by its own sampler"),
        (["reinforce.solver=unipc", "reinforce.method=dpo", *WORDS], r"solver: it draws pictures"),
        (["reinforce.rewards={}"], r"rewards: none is given"),
        (["reinforce.rewards={exact_match: 1.0}"], r"rewards\.exact_match: needs what is not written: texts"),
        (["reinforce.writes=[speech]"], r"reinforce\.writes: 'speech' is not known"),
        (["reinforce.rewards={judg: 1.0}"], r"rewards\.judg: 'judg' is not a reward.*judge"),
        (["reinforce.rewards={'tiny_rewards:nothing': 1.0}"], r"has no function 'nothing'"),
        (["training.parallel=fsdp"], r"reinforce samples from whole models"),
        ([NFT, *BOTH], r"reinforce\.method: nft learns continuous pictures alone"),
        (["reinforce.watched={bright: 1.0}"], r"watched: 'bright' is also a reward"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(origin, tmp_path, overrides, message):
    with pytest.raises(InputError, match=message) as error:
        learn(bright(origin, *overrides), tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run" / "checkpoints").exists()


def test_a_reference_of_another_vocabulary_is_refused(origin, tmp_path):
    other = begin(tmp_path / "other", "tokenizers.text.vocab_size=300")
    with pytest.raises(InputError, match=r"reinforce\.reference: .* has another vocabulary"):
        learn(bright(origin, f"reinforce.reference={other}"), tmp_path / "run")


def test_steps_that_are_not_learned_from_are_those_of_the_flow_itself(origin, tmp_path):
    """One step of three has noise, another one from picture to picture; the others follow the velocity."""
    learner = Learner(prepare(bright(origin, "reinforce.learned_steps=1"), tmp_path))
    rollouts = [rollout for group in learner.groups() for rollout in group.rollouts]
    assert {len(rollout.steps) for rollout in rollouts} == {1} and {r.steps[0] for r in rollouts} == {0, 1}
    times = learner.sampler.flow.times(3)
    for rollout in rollouts:
        for step in range(3):
            weighing = ActionBuilder(learner.run.model, times, per_answer=True)
            (actions,) = weighing.batches([TrainedSample(rollout, 1.0, [step])], 8, 64)
            velocity = learner.run.model(actions.batch).latents["image"]
            euler = actions.batch.latents["image"].values + velocity * (times[step + 1] - times[step])
            assert torch.allclose(euler, actions.after, atol=1e-4) == (step not in rollout.steps)
