"""The planner against closed forms, and the figures of docs/scaling.md against the planner."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from mot_gen.errors import InputError
from mot_gen.recipes.recipe import load_recipe
from mot_gen.study.plan import PlanInputs

DOC = Path(__file__).resolve().parents[2] / "docs" / "scaling.md"
GIB = 2**30


@pytest.fixture(scope="module")
def command():
    """The words of the planner's command in the document."""
    text = re.sub(r"\\\n", " ", DOC.read_text("utf-8"))
    return re.search(r"mot-gen plan digits (.*--vocabulary.*)", text)[1].split()


@pytest.fixture(scope="module")
def seven(command):
    overrides = [word for word in command if "=" in word]
    return PlanInputs.of(load_recipe("digits", overrides), int(command[command.index("--vocabulary") + 1]))


def on(draft: PlanInputs, processes: int, **training) -> dict:
    return replace(draft, training=draft.training.model_copy(update=training)).facts(processes)


def test_the_documents_figures_are_the_planners(seven):
    rows = re.findall(r"^\| (\d+) \| (fsdp|hsdp|ddp) \|(.*)\|$", DOC.read_text("utf-8"), re.M)
    assert [(int(n), kind) for n, kind, _ in rows] == [
        (8, "ddp"), (8, "fsdp"), (64, "fsdp"), (64, "hsdp"), (512, "fsdp"), (512, "hsdp"),
    ]  # fmt: skip
    for processes, kind, cells in rows:
        facts = on(seven, int(processes), parallel=kind)
        state = sum(facts[f"{name}_bytes"] for name in ("weight", "gradient", "moment", "average"))
        working = facts["memory_bytes"] - state
        sent = facts["sent_among_shards_bytes"], facts["sent_among_replicas_bytes"]
        wanted = [f"{value / GIB:.1f}" for value in (state, working, facts["memory_bytes"], *sent)]
        assert [cell.strip() for cell in cells.split("|")] == wanted, (processes, kind)


def test_the_papers_parameters(seven):
    """6738.1 M active at 7B in the Transfusion setting (arXiv 2411.04996), where norms are not counted."""
    facts = on(seven, 1)
    assert facts["active_parameters"] / 1e6 == pytest.approx(6738.4, abs=1)
    backbone = facts["active_parameters"] - 2 * 32_000 * 4096
    assert facts["total_parameters"] == pytest.approx(2 * backbone + 2 * 32_000 * 4096, rel=0.01)


def test_memory_and_traffic_are_closed_forms(seven):
    alone, total = on(seven, 1), on(seven, 1)["total_parameters"]
    assert alone["weight_bytes"] == 4 * total and alone["moment_bytes"] == 8 * total
    assert alone["sent_among_shards_bytes"] == alone["sent_among_replicas_bytes"] == alone["gathered_bytes"] == 0
    ddp, fsdp, hsdp = (on(seven, 64, parallel=kind) for kind in ("ddp", "fsdp", "hsdp"))
    shares = [ddp["weight_bytes"] / each["weight_bytes"] for each in (fsdp, hsdp)]
    assert shares == pytest.approx([64, 8], rel=1e-6)
    assert ddp["sent_among_replicas_bytes"] == round(8 * total * 63 / 64)  # a ring's reduce and gather, fp32
    assert hsdp["sent_among_replicas_bytes"] == round(8 * total / 8 * 7 / 8)
    assert fsdp["tokens_a_step"] == pytest.approx(64 * alone["tokens_a_step"], rel=1e-4)
    twice = on(seven, 64, parallel="fsdp", accumulate=2)
    assert twice["sent_among_shards_bytes"] == pytest.approx(2 * fsdp["sent_among_shards_bytes"])
    assert on(seven, 64, parallel="ddp", accumulate=2)["sent_among_replicas_bytes"] == ddp["sent_among_replicas_bytes"]


def test_what_does_not_learn_is_held_once():
    whole, upper = (PlanInputs.of(load_recipe("digits", [f"training.frozen_layers={n}"])).facts() for n in (0, 3))
    assert whole["learned_parameters"] == whole["total_parameters"] == upper["total_parameters"]
    assert upper["weight_bytes"] == whole["weight_bytes"]
    learned = 4 * upper["learned_parameters"]
    assert 0.3 * whole["weight_bytes"] < learned < 0.6 * whole["weight_bytes"]
    assert upper["gradient_bytes"] == upper["average_bytes"] == upper["moment_bytes"] / 2 == learned
    assert upper["peak_bytes"] < whole["peak_bytes"]


def test_recomputing_keeps_a_block(seven):
    kept, recomputed = (on(seven, 8, gradient_checkpointing=switch)["activation_bytes"] for switch in (False, True))
    tokens = seven.training.rows * seven.training.row_length
    assert recomputed == pytest.approx(kept / 32 + tokens * 32 * 4096 * 4)


def test_sizes_that_do_not_divide_are_refused(seven):
    with pytest.raises(InputError, match=r"training\.shard: 12 processes cannot form groups of 8"):
        on(seven, 12, parallel="hsdp")
