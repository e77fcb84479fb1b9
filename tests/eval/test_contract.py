"""What every metric of mot_gen.eval promises, found by pkgutil: a new file is held to it on arrival.

Batches change nothing; states of 1, 2 and 4 shares, uneven or empty, merge to that of one, in one process and over
real process groups; `reset` forgets; results are JSON with one signature line; no data is an InputError.
"""

import importlib
import json
import os
import pkgutil
import socket
import sys
import tempfile
from functools import cache
from itertools import pairwise
from unittest import mock

import pyarrow as pa
import pytest
import torch
from pretended import pretended_cuda
from torchvision.models import squeezenet1_1

import mot_gen.eval
from mot_gen.errors import InputError
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.images import image_pairs
from mot_gen.eval.text.meteor import METEOR
from mot_gen.eval.text.meteor_lexicon import Lexicon

WORDS = [
    *["a", "the", "cat", "dog", "sat", "ran", "over", "mat", "hill", "naïve", "Ünïcode", "7", ",", ".", "!"],
    "猫",
    "が",
    "犬です",
]
FRECHET_INFINITY_NEEDS = 40


def metric_classes():
    """Every class that counts something: the leaves below Accumulator, by module."""
    for info in pkgutil.walk_packages(mot_gen.eval.__path__, "mot_gen.eval."):
        importlib.import_module(info.name)
    found, stack = {}, [Accumulator]
    while stack:
        cls = stack.pop()
        stack += cls.__subclasses__()
        if not cls.__subclasses__():
            found[cls.__name__] = cls
    return dict(sorted(found.items()))


def sentence(generator, least=0):
    size = torch.randint(least, 9, (1,), generator=generator).item()
    return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (size,), generator=generator))


def streams(takes):
    """Update calls as (columns that are sliced alike, further arguments), seeded."""
    g = torch.Generator().manual_seed(7)
    n = FRECHET_INFINITY_NEEDS
    randn = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    rand = lambda *shape: torch.rand(*shape, generator=g)  # noqa: E731
    texts = lambda least=0: [sentence(g, least) for _ in range(n)]  # noqa: E731
    kinds = {
        "features": lambda: [((randn(n, 4),), {"real": True}), ((randn(n - 5, 4) * 1.4 + 0.3,), {"real": False})],
        "logits": lambda: [((randn(n, 5),), {})],
        "image pairs": lambda: [((rand(9, 3, 24, 24), rand(9, 3, 24, 24)), {})],
        "texts": lambda: [((texts(), [[sentence(g, 4), *texts()[: i % 3]] for i in range(n)]), {})],
        "transcripts": lambda: [((texts(), texts(1)), {})],
        "predictions": lambda: [((texts(3),), {})],
        "units": lambda: [(([randint(g, i % 7) for i in range(n)], [randint(g, 3 + i % 5) for i in range(n)]), {})],
        "logits and targets": lambda: [((randn(n, 6, 5), torch.randint(-1, 5, (n, 6), generator=g) % 5), {})],
        "losses and texts": lambda: [((randn(n).abs() * 40, texts(1)), {})],
        "cepstra": lambda: [(([randn(5 + i, 13) for i in range(9)], [randn(9 - i // 2, 13) for i in range(9)]), {})],
        "image and text embeddings": lambda: [((randn(n, 8), randn(n, 8)), {})],
        "image, text and reference embeddings": lambda: [((randn(n, 8), randn(n, 8), randn(n, 3, 8)), {})],
        "image and candidate embeddings": lambda: [((randn(n, 8), randn(n, 6, 8)), {})],
        "detections": lambda: [((detection_records(g, n),), {})],
        "vectors": lambda: [(([randn(2 + i % 3, 3) for i in range(n)], [randn(2 + i % 3, 3) for i in range(n)]), {})],
        "scores": lambda: [((randn(n, 4),), {})],
        "opinion scores": lambda: [((randn(n),), {})],
        "probabilities and texts": lambda: [((rand(n), texts()), {})],
        "token embeddings": lambda: [
            (([randn(3 + i, 13) for i in range(9)], [randn(9 - i // 2, 13) for i in range(9)]), {})
        ],
    }
    if takes not in kinds:
        pytest.fail(f"a metric takes {takes!r}: say here what that looks like")
    return kinds[takes]()


def randint(generator, size):
    return torch.randint(0, 4, (size,), generator=generator)


def detection_records(generator, n):
    record = {"tag": "counting", "include": [{"class": "dog", "count": 2}], "detections": []}
    boxes = [{"class": "dog", "score": 0.95, "box": [i * 10, 0, i * 10 + 9, 9]} for i in range(3)]
    return [{**record, "detections": boxes[: i % 4]} for i in range(n)]


def build(cls):
    if cls is METEOR:
        phrases = pa.array(["a b", "c"]), pa.array(["d", "a"])
        return cls(lexicon=Lexicon(frozenset("a"), {}, {"b": frozenset([1]), "d": frozenset([1])}, {}, *phrases, str))
    return random_lpips().clone() if cls is image_pairs.LPIPS else cls()


@cache
def random_lpips():
    """LPIPS with a random backbone: the real weights are in no package."""
    torch.manual_seed(0)
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(squeezenet1_1(weights=None).state_dict(), file.name)
        with mock.patch.dict(image_pairs.LPIPS_BACKBONES, {"squeeze": ("squeezenet1_1", "", "")}):
            metric = image_pairs.LPIPS("squeeze", weights=file.name)
    metric.network.double()  # in float32 a convolution depends on the batch it is in by 1e-7
    return metric


def feed(metric, share=slice(None), size=None, device="cpu"):
    for columns, extra in streams(metric.takes):
        columns = [on(column[share], device) for column in columns]
        size_ = size or max(len(columns[0]), 1)
        for start in range(0, len(columns[0]), size_):
            metric.update(*(column[start : start + size_] for column in columns), **extra)
    return metric


def on(column, device):
    """Tensors, alone or in lists, on a device; words stay what they are."""
    if isinstance(column, torch.Tensor):
        return column.to(device)
    return [on(each, device) for each in column] if isinstance(column, list) else column


def values(metric):
    found = metric.compute()
    return {name: one.value for name, one in (found if isinstance(found, dict) else {"value": found}).items()}


def approx(expected):
    return pytest.approx(expected, rel=1e-10, abs=1e-10, nan_ok=True)


pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
CLASSES = metric_classes()
SHARES = {
    "two uneven": [slice(0, 3), slice(3, None)],
    "four, one empty": [slice(0, 2), slice(2, 2), slice(2, 5), slice(5, None)],
    "four, first empty": [slice(0, 0), slice(0, 4), slice(4, 8), slice(8, None)],
}


def reads_tensors(cls) -> bool:
    columns = [column for columns, _ in streams(cls.takes) for column in columns]
    return any(isinstance(column, torch.Tensor) or isinstance(column[0], torch.Tensor) for column in columns)


@pytest.mark.parametrize("name", [name for name, cls in CLASSES.items() if reads_tensors(cls)])
def test_inputs_and_states_may_be_on_either_device(name):
    expected = values(feed(build(CLASSES[name])))
    with pretended_cuda():
        assert values(feed(build(CLASSES[name]), device="cuda")) == approx(expected)
        assert values(feed(build(CLASSES[name]).to("cuda"))) == approx(expected)


@pytest.mark.parametrize("name", CLASSES)
def test_batches_change_nothing(name):
    whole = values(feed(build(CLASSES[name])))
    assert whole and all(value == value for value in whole.values())
    for size in (1, 4):
        assert values(feed(build(CLASSES[name]), size=size)) == approx(whole)


@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)
@pytest.mark.parametrize("name", CLASSES)
def test_merged_states_are_one_state(name, shares):
    whole = values(feed(build(CLASSES[name])))
    first, *others = [feed(build(CLASSES[name]), share) for share in shares]
    for other in others:
        first.merge_state(other)
    assert values(first) == approx(whole)


@pytest.mark.parametrize("name", CLASSES)
def test_a_metric_that_is_reset_begins_anew(name):
    metric = feed(build(CLASSES[name]))
    before = values(metric)
    metric.reset()
    with pytest.raises(InputError):
        metric.compute()
    assert values(feed(metric)) == approx(before)


@pytest.mark.parametrize("name", CLASSES)
def test_results_are_json_and_signed(name):
    metric = feed(build(CLASSES[name]))
    found = metric.compute()
    for one in found.values() if isinstance(found, dict) else [found]:
        told = json.loads(json.dumps(one.to_dict(), allow_nan=False))
        assert told["value"] == one.value and "\n" not in told["signature"] and "version:" in told["signature"]
        assert all(count > 0 for count in told["n"].values())
    assert metric.higher_is_better in (True, False)


@pytest.mark.parametrize("name", CLASSES)
def test_clone_counts_by_itself(name):
    metric = feed(build(CLASSES[name]))
    expected = values(metric)
    clone = metric.clone()
    clone.reset()
    assert values(metric) == approx(expected)


def rank_main(rank, world, port, folder):
    """One rank: unlike shares, the last of them empty; every rank writes what it computed."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    bounds = [0, *(3 * (i + 1) for i in range(world - 2)), None]
    shares = [slice(a, b) for a, b in pairwise(bounds)] + [slice(0, 0)]
    found = {name: values(feed(build(cls), shares[rank])) for name, cls in CLASSES.items() if name != "LPIPS"}
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(found, file)
    torch.distributed.destroy_process_group()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.skipif(sys.platform == "win32", reason="the gloo rendezvous here is for POSIX")
@pytest.mark.parametrize("world", [2, 4])
def test_processes_agree_with_one(world, tmp_path):
    torch.multiprocessing.start_processes(
        rank_main, (world, free_port(), str(tmp_path)), world, start_method="fork" if FORKABLE else "spawn"
    )
    expected = {name: values(feed(build(cls))) for name, cls in CLASSES.items() if name != "LPIPS"}
    for rank in range(world):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name] == approx(value), (rank, name)


# Forking is quick, but not safe once CUDA is initialised.
FORKABLE = not torch.cuda.is_initialized()
