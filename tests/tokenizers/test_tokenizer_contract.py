"""The promises of every tokenizer. Each class named `...Tokenizer` in mot_gen.tokenizers is found and held to them."""

import importlib
import inspect
import math
import pkgutil

import pytest
import torch
from tokenizer_examples import EXAMPLES

import mot_gen.tokenizers
from mot_gen.errors import InputError
from mot_gen.sequence import Modality, Span
from mot_gen.tokenizers.saved import load_tokenizer


def tokenizer_classes():
    for module in pkgutil.iter_modules(mot_gen.tokenizers.__path__):
        found = importlib.import_module(f"mot_gen.tokenizers.{module.name}")
        for name, kind in inspect.getmembers(found, inspect.isclass):
            if kind.__module__ == found.__name__ and name.endswith("Tokenizer") and hasattr(kind, "modality"):
                yield kind


CLASSES = sorted(tokenizer_classes(), key=lambda kind: kind.__name__)
# Their spans are read by a model and never decoded; test_image_edges.py has the promises that they keep instead.
READ_ONLY = ("ImageFeatureTokenizer",)
# Of what is decoded, by its number of axes: samples of sound, rows of plain numbers, pixels.
RANGES = {1: (-1, 1), 2: (-math.inf, math.inf), 3: (0, 1)}
CODERS = [kind for kind in CLASSES if kind.__name__ not in READ_ONLY]


@pytest.fixture(scope="module", params=CLASSES, ids=lambda kind: kind.__name__)
def example(request):
    """(tokenizer, raw pieces, bound of the round trip) of every tokenizer."""
    return example_of(request.param.__name__)


@pytest.fixture(scope="module", params=CODERS, ids=lambda kind: kind.__name__)
def coder(request):
    """The same of those that decode."""
    return example_of(request.param.__name__)


def example_of(name: str):
    assert name in EXAMPLES, f"{name} has no example in tokenizer_examples.py, so its promises cannot be tested"
    make, raws, bound = EXAMPLES[name]
    return make(), raws, bound


def same(a, b, tolerance=1e-5):
    if not isinstance(a, torch.Tensor):
        return a == b
    return a.dtype == b.dtype and a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=tolerance)


def same_span(a: Span, b: Span):
    return (a.modality, a.grid, a.learned) == (b.modality, b.grid, b.learned) and same(a.values, b.values)


def test_the_span_is_what_the_modality_declares(example):
    tokenizer, raws, _ = example
    modality = tokenizer.modality
    assert isinstance(modality, Modality)
    for raw in raws:
        span = tokenizer.encode(raw)
        assert span.modality == modality.name and span.learned
        if span.grid is not None:
            assert span.grid[0] * span.grid[1] == len(span)
        assert modality.discrete == type(tokenizer).discrete
        if modality.discrete:
            assert span.values.dtype == torch.int64 and span.values.ndim == 1
            assert ((span.values >= 0) & (span.values < modality.vocab_size)).all()
        else:
            assert span.values.dtype == torch.float32 and span.values.shape[1:] == (modality.channels,)
            assert span.values.isfinite().all() and not span.values.requires_grad


def test_a_batch_is_its_members(coder):
    tokenizer, raws, _ = coder
    spans = tokenizer.encode_batch(raws)
    assert len(spans) == len(raws) and all(map(same_span, spans, map(tokenizer.encode, raws)))
    decoded = tokenizer.decode_batch(spans)
    assert len(decoded) == len(raws) and all(map(same, decoded, map(tokenizer.decode, spans)))
    assert tokenizer.encode_batch([]) == [] and tokenizer.decode_batch([]) == []


def test_encoding_and_decoding_do_not_depend_on_the_random_state(coder):
    tokenizer, raws, _ = coder
    with torch.random.fork_rng():
        torch.manual_seed(0)
        span = tokenizer.encode(raws[0])
        decoded = tokenizer.decode(span)
        torch.manual_seed(1)
        assert torch.equal(tokenizer.encode(raws[0]).values, span.values)
        assert same(tokenizer.decode(span), decoded, 0)


def test_the_round_trip_stays_within_its_bound(coder):
    tokenizer, raws, bound = coder
    for raw in raws:
        out = tokenizer.decode(tokenizer.encode(raw))
        if isinstance(raw, str):
            assert out == raw
            continue
        low, high = RANGES[raw.ndim]
        assert out.shape == raw.shape and out.dtype == torch.float32 and low <= out.min() <= out.max() <= high
        assert bound is None or (out - raw).abs().max() <= bound


def test_saved_and_loaded_it_is_the_same(coder, tmp_path):
    tokenizer, raws, _ = coder
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.fingerprint == tokenizer.fingerprint and loaded.modality == tokenizer.modality
    spans = loaded.encode_batch(raws)
    assert all(map(same_span, spans, tokenizer.encode_batch(raws)))
    assert all(map(same, loaded.decode_batch(spans), tokenizer.decode_batch(spans)))
    assert not [file.name for file in tmp_path.rglob("*") if file.suffix in (".bin", ".pt", ".pkl")]


def test_the_name_is_a_field_that_is_saved_and_counts(example, tmp_path):
    tokenizer, _, _ = example
    tokenizer.save_pretrained(tmp_path)
    config = next(file for file in (tmp_path / "config.json", tmp_path / "tokenizer_config.json") if file.is_file())
    config.write_text(config.read_text().replace(f'"name": "{tokenizer.modality.name}"', '"name": "renamed"'))
    renamed = load_tokenizer(str(tmp_path))
    assert type(renamed) is type(tokenizer)
    assert renamed.modality.name == "renamed" and renamed.fingerprint != tokenizer.fingerprint


def test_the_fingerprint_is_a_sha256_and_tells_weights_apart(example):
    tokenizer, _, _ = example
    before = tokenizer.fingerprint
    assert len(before) == 64 and int(before, 16) >= 0 and before == tokenizer.fingerprint
    parameters = list(tokenizer.parameters()) if isinstance(tokenizer, torch.nn.Module) else []
    for parameter in parameters[-1:]:
        parameter.data.add_(1e-3)
        assert tokenizer.fingerprint != before
        parameter.data.sub_(1e-3)


def test_a_span_of_another_tokenizer_is_refused(coder):
    tokenizer, raws, _ = coder
    span = tokenizer.encode(raws[0])
    outside = span.values + 10**6 if tokenizer.modality.discrete else span.values[:, :-1]
    with pytest.raises(InputError):
        tokenizer.decode(Span(span.modality, outside, span.grid))
    if span.grid:
        with pytest.raises(InputError, match="expected"):
            tokenizer.decode(Span(span.modality, span.values[:-1], None))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_another_device_it_gives_the_same(coder):
    tokenizer, raws, _ = coder
    if not isinstance(tokenizer, torch.nn.Module):
        pytest.skip("has no device")
    expected = tokenizer.encode_batch(raws)
    spans = tokenizer.to("cuda").encode_batch(raws)
    decoded = tokenizer.decode_batch(spans)
    tokenizer.to("cpu")
    assert all(torch.allclose(s.values.cpu(), e.values, atol=1e-3) for s, e in zip(spans, expected))
    assert all(torch.allclose(d.cpu(), t, atol=1e-2) for d, t in zip(decoded, tokenizer.decode_batch(expected)))
