"""Tokenizers whose networks are on the pretended device: the same spans, on the CPU, and one wait for a batch; while
training, and in `data tokenize`."""

import copy
from functools import partial

import pyarrow.parquet
import pytest
import torch
from pretended import pretended_cuda
from tokenizer_examples import EXAMPLES, chirp, pictures, speech_tokenizer

from mot_gen.data.loader import Loader
from mot_gen.data.records import Pair
from mot_gen.data.spans import BATCH
from mot_gen.data.tokenize import Corpus, TokenizeOptions, tokenize
from mot_gen.files.image_files import to_pil
from mot_gen.recipes.recipe import load_recipe
from mot_gen.recipes.sections import Data, Training
from mot_gen.tokenizers.image_patch import PatchImageTokenizer
from mot_gen.tokenizers.pretrained import move
from mot_gen.tokenizers.text import TextTokenizer
from mot_gen.tokenizers.train_image import ImageTrainer, VQTraining, small_kl, small_scales, small_vq
from mot_gen.tokenizers.train_speech_units import SpeechTraining, train_speech_units
from mot_gen.tokenizers.train_speech_units import untrained as untrained_speech
from mot_gen.training.loop import prepare, training_step

CUDA = torch.device("cuda", 0)
WAITS = 8  # of a batch: what comes back, and constants that go there


def vq():
    return EXAMPLES["VQImageTokenizer"][0]()


def pairs(count: int = 2 * BATCH + 3) -> list[Pair]:
    drawn = pictures(count, 3, 16, 24)
    return [Pair(f"p{i}", to_pil(picture), (f"caption {i}",)) for i, picture in enumerate(drawn)]


def in_tokenizers(launches) -> int:
    return sum(times for (kind, _, place), times in launches.waits.items() if "encode_batch" in place)


@pytest.mark.parametrize("kind", sorted({*EXAMPLES} - {"TextTokenizer"}))
def test_spans_are_the_same_and_on_the_cpu(kind):
    make, raws, _ = EXAMPLES[kind]
    tokenizer = speech_tokenizer(steps=1) if kind == "SpeechUnitTokenizer" else make()
    here = tokenizer.encode_batch(raws[:2])
    with pretended_cuda() as launches:
        tokenizer.to(CUDA)
        launches.clear()
        there = tokenizer.encode_batch(raws[:2])
        assert launches.waited <= WAITS, launches.report()
        for one, other in zip(here, there, strict=True):
            assert other.values.device.type == "cpu" and other.grid == one.grid
            torch.testing.assert_close(other.values, one.values, atol=1e-5, rtol=1e-5)


def test_only_what_has_a_network_moves():
    network, patches = vq(), PatchImageTokenizer((8, 8), 4)
    with pretended_cuda():
        move([network, patches, TextTokenizer.train(["a"], 270)], CUDA)
        assert network.device == CUDA and patches.device.type == "cpu"


def test_a_corpus_is_tokenised_on_the_device(tmp_path):
    corpus = Corpus(partial(pairs, 12), lambda: {"image": vq()})
    options = TokenizeOptions(shard_size=6, batch_size=3)
    tokenize(corpus, tmp_path / "here", options)
    with pretended_cuda() as launches:
        tokenize(corpus, tmp_path / "there", options)
        assert in_tokenizers(launches) == 8  # four batches come and go
    for name in ("part-000000.parquet", "part-000001.parquet"):
        here, there = (pyarrow.parquet.read_table(tmp_path / way / name) for way in ("here", "there"))
        assert here.to_pylist() == there.to_pylist()


def test_the_loader_waits_once_for_a_batch_of_pictures():
    def rows(tokenizer) -> list:
        tokenizers = {"text": TextTokenizer.train(["caption 0"], 270), "image": tokenizer}
        training = Training(row_length=200, rows=2, workers=0)
        loader = Loader(pairs(), tokenizers, Data(window=64, caption_dropout=0.0), training)
        return [[[span.values for span in sample] for sample in row] for row in next(loader)]

    here = rows(vq())
    with pretended_cuda() as launches:
        tokenizer = vq().to(CUDA)
        launches.clear()
        there = rows(tokenizer)
        assert all(values.device.type == "cpu" for row in there for sample in row for values in sample)
        waits = {key: times for key, times in launches.waits.items() if key[0] != "asynchronous copy"}
        assert sum(times for (_, _, place), times in waits.items() if "encode_batch" in place) == 3
    assert str(here) == str(there)


def test_a_run_tokenises_on_its_device(tmp_path):
    vq().save_pretrained(tmp_path / "vq")
    overrides = [f"tokenizers.image={{kind: image_vq, path: {tmp_path / 'vq'}}}", "objectives.image.kind=next_token"]
    overrides += ["data.window=24", "tokenizers.text.vocab_size=270", "backbone.dim=32", "backbone.layers=1"]
    overrides += ["backbone.heads=2", "training.rows=2", "training.row_length=200", "training.workers=0"]
    with pretended_cuda():
        run = prepare(load_recipe("digits", [*overrides, "training.device=cuda"]), tmp_path / "run")
        assert run.tokenizers["image"].device == CUDA
        assert training_step(run)["grad_norm"] > 0
        run.close()


def image_training(tokenizer, folder=None):
    options = VQTraining(steps=2, batch_size=4, warmup_steps=1, log_every=2, adversarial=0.5, adversarial_start=0)
    drawn = torch.stack(pictures(8, 3, 16, 16)).mul(255).to(torch.uint8)
    rows: list[dict] = []
    ImageTrainer(tokenizer, drawn, options, folder).run(rows.append)
    return rows


SMALL = {"fold": 2, "widths": (64,), "decoder_layers": 1}
TRAINED = {
    "vq": lambda: small_vq(16, 8, **SMALL),
    "kl": lambda: small_kl(16, **SMALL),
    "scales": lambda: small_scales(16, [1, 2, 8], 8, **SMALL),
}


@pytest.mark.parametrize("kind", TRAINED)
def test_image_tokenizers_learn_on_the_device_as_on_the_cpu(kind, tmp_path):
    torch.manual_seed(0)
    made = TRAINED[kind]()
    other, third = copy.deepcopy(made), copy.deepcopy(made)
    here = image_training(made)
    with pretended_cuda():
        there = image_training(other.to(CUDA), tmp_path)
        again = image_training(third.to(CUDA), tmp_path)  # from its checkpoint, with no step left
    assert not again and there[-1]["step"] == 2
    for name in {*here[-1]} - {"images_per_second"}:
        assert there[-1][name] == pytest.approx(here[-1][name], rel=1e-3, abs=1e-4), name


def test_speech_units_are_learned_on_the_device_as_on_the_cpu():
    options = SpeechTraining(steps=2, batch_size=2, crop_units=10, log_every=2, warmup_steps=1)
    torch.manual_seed(0)
    made = untrained_speech(vocab_size=12, collapse=True)
    here: list[dict] = []
    there: list[dict] = []
    sounds = [chirp(number)[:6400] for number in range(3)]
    train_speech_units(copy.deepcopy(made), sounds, options, here.append)
    with pretended_cuda():
        train_speech_units(made.to(CUDA), sounds, options, there.append)
    assert there[-1] == pytest.approx(here[-1], rel=1e-3)
