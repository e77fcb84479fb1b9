"""Many processes as one: the same numbers, the same decisions, the same checkpoints; and what happens when one dies."""

import json
import os
import pickle
import time

import pytest
import torch
import torch.distributed as dist
from PIL import Image
from rank_jobs import KINDS, every_kind, faults, four_steps, killed, measured, resumed, tiny
from ranks import launch, start

from mot_gen.errors import InputError
from mot_gen.training import checkpoint, parallel
from mot_gen.training import world as worlds
from mot_gen.training.runs import prepare
from mot_gen.training.world import World

EXACT = [kind for kind in KINDS if "bf16" not in kind]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def alone(folder):
    """Four steps of one process, whose batches are those of two."""
    run = prepare(tiny(), folder / "alone")
    yield four_steps(run) | {"parameters": sum(p.numel() for p in run.model.parameters())}
    run.close()


@pytest.fixture(scope="module")
def both(folder):
    """The same of two processes, one of which never meets an image: [rank][kind]."""
    return launch(2, every_kind, folder)


def furthest(a: dict, b: dict) -> float:
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a if a[name].numel())


@pytest.mark.parametrize("kind", KINDS)
def test_models_begin_as_on_one_process(alone, both, kind):
    """Each process made its share alone, from the meta device."""
    for found in both:
        assert furthest(alone["initial"], found[kind]["initial"]) == 0
        assert found[kind]["kind"] == kind.partition(",")[0]


@pytest.mark.parametrize("kind", EXACT)
def test_gradients_and_four_steps_are_those_of_one_process(alone, both, kind):
    """Although one process has no images in any batch."""
    found = both[0][kind]
    assert furthest(alone["gradients"], found["gradients"]) < 1e-6
    for part in ("model", "ema", "moments"):
        assert furthest(alone[part], found[part]) < 1e-6, part
    assert alone["position"][:2] == found["position"][:2]
    for one, two in zip(alone["lines"], found["lines"], strict=True):
        for name in ("losses", "grad_norm", "tokens", "flops", "fill", "lr"):
            assert two[name] == pytest.approx(one[name], rel=1e-6), name
    assert found["held_out"] == pytest.approx(alone["held_out"], rel=1e-6)
    assert len(alone["lines"][0]["losses"]) == 2


def test_bf16_computes_what_fp32_does_roughly(alone, both):
    found = both[0]["fsdp, bf16"]
    losses = [[line["losses"][name] for line in each["lines"]] for each in (alone, found) for name in ("text", "image")]
    assert losses[2] == pytest.approx(losses[0], rel=0.02) and losses[3] == pytest.approx(losses[1], rel=0.02)
    assert losses[2] != losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_processes_agree_to_the_bit(both, kind):
    one, other = (found[kind] for found in both)
    for part in ("initial", "model", "ema", "moments", "gradients"):
        assert furthest(one[part], other[part]) == 0
    for name in ("losses", "grad_norm", "tokens"):
        assert [line[name] for line in one["lines"]] == [line[name] for line in other["lines"]]


def test_shares_are_halves(alone, both):
    """Stacked towers are no obstacle: every share of this model is exactly half."""
    for found in both:
        assert found["fsdp"]["share"] == pytest.approx(alone["parameters"] / 2, rel=0.01)
        assert found["ddp"]["share"] == found["hsdp"]["share"] == alone["parameters"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_of_one_process_is_skipped_by_all(both, kind):
    assert [found[kind]["skipped"] for found in both] == [(1, 0.0)] * 2


@pytest.mark.parametrize("size", [1, 3])
def test_a_checkpoint_of_two_goes_on_on_one_and_three(folder, both, size):
    """To the bit: weights, averages, moments, counters and the position in the data; also ddp's, on shards."""
    kinds = ["fsdp", "ddp"]
    found = launch(size, resumed, folder, kinds) if size > 1 else [resumed(0, folder, kinds)]
    for kind in kinds:
        for part in ("model", "ema", "moments"):
            assert furthest(found[0][kind][part], both[0][kind][part]) == 0, part
        assert all(each[kind]["position"] == both[0][kind]["position"] for each in found)


@pytest.fixture(scope="module")
def disturbed(folder):
    return launch(2, faults, folder)


def test_a_signal_to_one_process_stops_and_saves_all(folder, disturbed):
    for found in disturbed:
        assert "stopped at step 3; go on with --resume" in found["stopped"]
    steps = [json.loads(line)["step"] for line in (folder / "stopped" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_stopped_run_ends_as_the_undisturbed_one(disturbed):
    for found in disturbed:
        one, other = found["undisturbed"], found["resumed"]
        assert all(furthest(one[part], other[part]) == 0 for part in ("model", "ema", "moments", "random"))
        assert one["position"] == other["position"]


def test_hooks_see_a_whole_model_on_the_first_process(folder, disturbed):
    (exported,), none = (found["exported"] for found in disturbed)
    assert none == []
    saved = checkpoint.load(checkpoint.latest_good(folder / "stopped"))
    assert furthest(exported, saved.tensors["ema"]) == 0
    last = json.loads((folder / "stopped" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["evaluation"] == {"quality": 6} and set(last["held_out"]) == {"text", "image"}


def test_a_full_disk_of_one_process_ends_all_and_keeps_what_was_good(folder, disturbed):
    for found in disturbed:
        assert "step-00000004: cannot be written" in found["full"] and "\n" not in found["full"]
        assert "the newest good one is" in found["full"] and "step-00000002" in found["full"]
    assert sorted(p.name for p in (folder / "full" / "checkpoints").iterdir()) == ["latest", "step-00000002"]


def test_the_first_process_measures_while_the_others_wait(tmp_path):
    """Metrics gather what all processes have seen. Here only the first has seen anything, so it must not wait for
    them: every run on several processes would have ended in a wait for what never comes."""
    for number in range(40):
        Image.new("L", (8, 8), 6 * number).save(tmp_path / f"{number}.png")
    lines = [json.dumps({"image": f"{number}.png", "caption": f"grey {number}"}) for number in range(40)]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    found, others = launch(2, measured, tmp_path)
    assert found == others  # what the first has written
    assert found["report"]["text"]["bits_per_byte"] > 0 and found["evaluation"]["bleu"] >= 0


def test_a_dead_process_ends_the_others_with_a_line(tmp_path):
    started = time.monotonic()
    processes, connections = start(2, killed, tmp_path)
    assert connections[0].poll(240)
    found = pickle.loads(connections[0].recv_bytes())
    assert "process 0 of 2: another is gone" in found["error"] and "--resume" in found["error"]
    processes[1].join(10)
    assert processes[1].exitcode == -9 and time.monotonic() - started < 240
    assert checkpoint.latest_good(tmp_path).name in ("step-00000002", "step-00000004")


# ---------------------------------------------------------------- without processes


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(InputError, match=r"training.global_rows: 4 rows a step do not divide.*rows=2 on 3 processes"):
        worlds.check_size(tiny().training, 3, 3)
    with pytest.raises(InputError, match=r"training.shard: 6 processes cannot form groups of 4"):
        worlds.check_size(tiny("training.parallel=hsdp", "training.shard=4", "training.global_rows=0").training, 6, 8)
    assert [worlds.accumulation(tiny("training.global_rows=12").training, size) for size in (1, 2, 3, 6)] == [
        6,
        3,
        2,
        1,
    ]


def test_towers_are_not_what_is_shared_out():
    assert parallel.sharded_dimension((2, 4096, 11008), 64) == 2
    assert parallel.sharded_dimension((2, 22016, 4096), 512) == 1
    assert parallel.sharded_dimension((2, 7, 5), 64) == 0


def test_ddp_sums_once_a_step(monkeypatch):
    """Of three batches only the last one's backward pass meets the other processes."""
    calls, summed = [], parallel._summed
    monkeypatch.setattr(parallel, "_summed", lambda state, bucket: calls.append(1) or summed(state, bucket))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        layer = torch.nn.Linear(2, 1)
        network = parallel.wrap(layer, World(), "ddp")
        for last in (False, False, True):
            with parallel.accumulating(network, last):
                network(torch.ones(1, 2)).sum().backward()
            assert len(calls) == last
        assert layer.weight.grad.tolist() == [[3.0, 3.0]]
    finally:
        dist.destroy_process_group()


def test_one_process_is_a_world_of_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with worlds.join(tiny().training) as world:
        assert (world.size, world.first, world.sum([1.5, 2]), world.gather("x")) == (1, True, [1.5, 2], ["x"])
        assert worlds.choose(tiny("training.parallel=fsdp").training, world, 10) == "plain"
    assert os.environ.get("RANK") is None or dist.is_initialized() is False
