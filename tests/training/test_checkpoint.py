"""Checkpoints: what is saved comes back, and no fault is loaded or spoils what was good."""

import itertools
import json
import os
import resource
import time
from pathlib import Path

import pytest
import torch
from forks import FORKS

from mot_gen.errors import InputError
from mot_gen.training import checkpoint, random_state, saver

TENSORS = {
    "model": {"weight": torch.arange(6.0).view(2, 3), "bias": torch.zeros(0)},
    "rng": {"cpu": torch.tensor([1, 255], dtype=torch.uint8)},
}
MODEL = "shard-00001-model-00001-of-00002.safetensors"


def save(run: Path, step: int, **options) -> Path:
    return saver.save(run, step, TENSORS, {"epoch": step / 10}, {"recipe.yaml": b"name: x\n"}, **options)


def test_what_is_saved_comes_back(tmp_path):
    folder = save(tmp_path, 7)
    assert folder == tmp_path / "checkpoints" / "step-00000007"
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-00000007\n"
    back = checkpoint.load(folder)
    assert (back.step, back.state, back.folder) == (7, {"epoch": 0.7}, folder)
    assert (folder / "recipe.yaml").read_bytes() == b"name: x\n"
    for group, named in TENSORS.items():
        assert named.keys() == back.tensors[group].keys()
        for name, tensor in named.items():
            assert back.tensors[group][name].dtype == tensor.dtype and torch.equal(back.tensors[group][name], tensor)


def test_shared_and_strided_tensors_are_saved_whole(tmp_path):
    flat = torch.arange(12.0)
    tied = {"a": flat[:6], "b": flat, "c": flat.view(3, 4).T}
    back = checkpoint.load(saver.save(tmp_path, 1, {"model": tied}, {})).tensors["model"]
    assert all(torch.equal(back[name], tied[name]) for name in tied)


def test_only_the_newest_are_kept(tmp_path):
    for step in (100, 9, 1000):
        save(tmp_path, step, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["latest", "step-00000100", "step-00001000"]


def test_a_step_saved_again_is_replaced(tmp_path):
    save(tmp_path, 3)
    folder = saver.save(tmp_path, 3, TENSORS, {"second": True})
    assert checkpoint.load(folder).state == {"second": True}
    assert sorted(p.name for p in folder.parent.iterdir()) == ["latest", "step-00000003"]


def truncate(path: Path):
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("fault", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("file", [MODEL, "state.json", "recipe.yaml"])
def test_damage_is_named_with_what_is_still_good(tmp_path, fault, file):
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    fault(bad / file)
    with pytest.raises(InputError) as caught:
        checkpoint.load(bad)
    message = str(caught.value)
    assert str(bad / file) in message and str(good) in message and "\n" not in message
    assert checkpoint.latest_good(tmp_path) == good


@pytest.mark.parametrize("content", [b"", b"[]", b'{"files": 3}', b'{"files": {"state.json": {}}}', b"\xff"])
def test_a_damaged_manifest_is_named(tmp_path, content):
    folder = save(tmp_path, 1)
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json: is damaged; there is no other good one"):
        checkpoint.load(folder)
    with pytest.raises(InputError, match="none of its 1 checkpoints is good"):
        checkpoint.latest_good(tmp_path)


def test_shards_of_two_steps_do_not_mix(tmp_path):
    other = {"model": {"weight": torch.ones(2, 3)}, "rng": TENSORS["rng"]}
    one, two = save(tmp_path, 1), saver.save(tmp_path, 2, other, {})
    (two / MODEL).write_bytes((one / MODEL).read_bytes())
    with pytest.raises(InputError, match=f"step-00000002/{MODEL}"):
        checkpoint.load(two)


def test_a_run_without_checkpoints_has_none_to_load(tmp_path):
    assert checkpoint.latest_good(tmp_path) is None
    with pytest.raises(InputError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "checkpoints" / "step-00000001")


# Processes that are to be starved, killed and locked out.


def start(target, *arguments):
    """Starts `target(connection, *arguments)` in a process; returns it and our end of the connection."""
    ours, theirs = FORKS.Pipe()
    process = FORKS.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    return process, ours


def save_with_little_room(connection, run: Path, limit: int):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        saver.save(run, 2, {"model": {"w": torch.ones(300_000)}}, {"note": "x" * 3_000_000})
    except InputError as error:
        connection.send(str(error))


@pytest.mark.parametrize("limit", [1_000_000, 2_000_000])  # within the tensors, and within the state after them
def test_full_disk_keeps_the_old_one_and_leaves_nothing(tmp_path, limit):
    good = save(tmp_path, 1)
    process, connection = start(save_with_little_room, tmp_path, limit)
    process.join(60)
    message = connection.recv()
    assert "step-00000002: cannot be written" in message and f"the newest good one is {good}" in message
    assert "\n" not in message
    assert sorted(p.name for p in good.parent.iterdir()) == ["latest", "step-00000001"]
    assert checkpoint.latest_good(tmp_path) == good


def save_forever(connection, run: Path):
    """Steps repeat on purpose, so that replacing a checkpoint is interrupted as well as adding one."""
    for turn in itertools.count(1):
        tensors = {"model": {"w": torch.full((50_000,), turn)}, "ema": {"w": torch.full((50_000,), -turn)}}
        saver.save(run, turn % 7, tensors, {"turn": turn}, keep=2)
        connection.send(turn)


def test_kill_at_any_moment_leaves_the_last_good(tmp_path):
    for delay in torch.rand(12, generator=torch.Generator().manual_seed(0)).mul(0.05).tolist():
        process, connection = start(save_forever, tmp_path)
        for _ in range(3):
            connection.recv()
        time.sleep(delay)
        process.kill()
        process.join()
        found = list((tmp_path / "checkpoints").glob("step-*"))
        assert found and not any(checkpoint.damage_of(folder) for folder in found)
        back = checkpoint.load(checkpoint.latest_good(tmp_path))
        assert torch.equal(back.tensors["model"]["w"], -back.tensors["ema"]["w"])
        assert back.tensors["model"]["w"][0] == back.state["turn"]


def test_interrupted_replacement_is_undone_by_the_next_writer(tmp_path):
    folder = save(tmp_path, 1)
    folder.rename(folder.with_name(".old-step-00000001"))
    (folder.parent / ".saving-step-00000001").mkdir()
    (folder.parent / ".trash-step-00000000").mkdir()
    assert checkpoint.latest_good(tmp_path) is None
    with checkpoint.lock(tmp_path):
        assert checkpoint.latest_good(tmp_path) == folder
    assert sorted(p.name for p in folder.parent.iterdir()) == ["latest", "step-00000001"]


def hold_lock(connection, folder: Path):
    with checkpoint.lock(folder):
        connection.send("held")
        connection.recv()


def test_second_writer_is_refused_until_the_first_is_gone(tmp_path):
    first, connection = start(hold_lock, tmp_path)
    assert connection.recv() == "held"
    with pytest.raises(InputError, match=f"process {first.pid} is writing here"), checkpoint.lock(tmp_path):
        pass
    first.kill()
    first.join()
    with checkpoint.lock(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_lock_names_a_folder_that_is_none(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: cannot be written to"), checkpoint.lock(tmp_path / "file"):
        pass


def test_random_state_repeats_the_draws():
    state = random_state.random_state()
    drawn = torch.rand(5)
    random_state.set_random_state(state)
    assert torch.equal(torch.rand(5), drawn)


def test_an_older_format_is_refused(tmp_path):
    folder = save(tmp_path, 1)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({"step": 1, "state": state["state"]}))
    with pytest.raises(InputError, match=r"state\.json: has format 1, and this version reads format 2"):
        checkpoint.read(folder, {})
