"""GRPO of tokens beside TRL's own loss on the same numbers, where TRL is installed."""

from types import SimpleNamespace

import pytest
import torch

from mot_gen.reinforce.grpo import clipped_loss, k3, token_log_probs

trainer = pytest.importorskip("trl.trainer.grpo_trainer", reason="needs trl")


def given():
    """Log-probabilities now, before and by the reference, (3, 4); advantages; which tokens there are."""
    random = torch.Generator().manual_seed(0)
    now = -torch.rand(3, 4, generator=random)
    old, reference = (now + 0.5 * torch.randn(3, 4, generator=random) for _ in range(2))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    return now, old, reference, torch.tensor([1.5, -0.7, 0.2]), mask


def theirs(loss_type):
    now, old, reference, advantages, mask = given()
    stub = SimpleNamespace(
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=4,
        importance_sampling_level="token",
        loss_type=loss_type,
        epsilon_low=0.2,
        epsilon_high=0.3,
        beta=0.04,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        aux_loss_enabled=False,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        _metrics={"train": __import__("collections").defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *a, **k: (now, torch.zeros_like(now), None),
    )
    ids = torch.zeros(3, 4, dtype=torch.long)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": mask,
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }
    return float(trainer.GRPOTrainer._compute_loss(stub, None, inputs))


@pytest.mark.parametrize(("loss_type", "per_answer"), [("grpo", True), ("dapo", False)])
def test_the_same_numbers_give_the_same_loss(loss_type, per_answer):
    now, old, reference, advantages, mask = given()
    each = clipped_loss(now - old, advantages[:, None].expand(3, 4), 0.2, 0.3) + 0.04 * k3(now, reference)
    weight = mask / mask.sum(1, keepdim=True) if per_answer else mask.float()
    assert float((weight * each).sum() / weight.sum()) == pytest.approx(theirs(loss_type), abs=1e-6)


def test_log_probabilities_are_theirs():
    utils = pytest.importorskip("trl.trainer.utils", reason="needs trl")
    random = torch.Generator().manual_seed(1)
    logits, ids = torch.randn(5, 7, generator=random), torch.randint(7, (5,), generator=random)
    expected = utils.selective_log_softmax(logits / 0.8, ids)
    found = token_log_probs(logits, ids, torch.zeros(5, 7, dtype=torch.bool), temperature=0.8)
    assert torch.allclose(found, expected, atol=1e-6)
