"""A corpus tokenised: nothing lost or twice, whoever is killed; corrupt samples named; training reads it as the raw."""

import json
import multiprocessing
import os
import random
import signal

import pyarrow.parquet
import pytest
import torch
from tokenize_jobs import COUNT, killers, pairs, patches, tokenizers

from mot_gen.commands.main import main
from mot_gen.data.loader import Loader
from mot_gen.data.records import Document, Pair, Part, SpeechPair, open_records, parse_record
from mot_gen.data.tokenize import Corpus, OpenCorpus, TokenizeOptions, read_counts, tokenize
from mot_gen.errors import InputError, Interrupted
from mot_gen.recipes.sections import Data, Training
from mot_gen.tokenizers.image_patch import PatchImageTokenizer
from mot_gen.tokenizers.text import TextTokenizer
from mot_gen.training.trained_tokenizers import raw_parts


def broken_pairs() -> list[Pair]:
    return pairs(broken=(4, 5, 20))


CORPUS = Corpus(pairs, tokenizers)
SMALL = TokenizeOptions(shard_size=5, batch_size=2)


def ids(out) -> list[str]:
    return [sample.id for sample in open_records(out)]


def contents(out) -> dict:
    return {path.name: pyarrow.parquet.read_table(path).to_pylist() for path in sorted(out.glob("*.parquet"))}


def test_every_sample_is_there_once_and_is_what_the_tokenizer_gives(tmp_path):
    found = tokenize(CORPUS, tmp_path, SMALL)
    assert found.samples == COUNT and not found.skipped
    assert ids(tmp_path) == [pair.id for pair in pairs()]
    tokenizer = patches()
    for sample, pair in zip(open_records(tmp_path), pairs()):
        span = tokenizer.encode(pair.image)
        assert torch.equal(sample.image.values, span.values) and sample.image.grid == span.grid
        assert sample.captions == pair.captions and sample.image.fingerprint == tokenizer.fingerprint


def test_workers_write_what_one_process_does(tmp_path, monkeypatch):
    """Forked ones: two that are spawned would import for seconds, as the one below does."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)
    tokenize(CORPUS, tmp_path / "one", SMALL)
    found = tokenize(CORPUS, tmp_path / "two", TokenizeOptions(workers=2, shard_size=5, batch_size=2))
    assert found.samples == COUNT and contents(tmp_path / "two") == contents(tmp_path / "one")


def test_threads_write_what_one_does(tmp_path):
    tokenize(CORPUS, tmp_path / "one", SMALL)
    work = OpenCorpus(Corpus(broken_pairs, tokenizers), tmp_path, SMALL, threads=3)
    assert [work.shard(k, lambda: False)[0] for k in range(work.shards)] == [4, 4, 5, 5, 2]
    whole = OpenCorpus(CORPUS, tmp_path, SMALL, threads=3)
    for k in range(whole.shards):
        whole.shard(k, lambda: False)
    assert contents(tmp_path) == contents(tmp_path / "one")
    with pytest.raises(Interrupted, match="the shards written stay"):
        whole.shard(0, lambda: True)


def test_a_device_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="device: cuda was asked for, but no CUDA device is here; give cpu or auto"):
        tokenize(CORPUS, tmp_path, TokenizeOptions(device="cuda"))
    with pytest.raises(InputError, match="device must be one of auto, cpu, cuda, got 'gpu'"):
        TokenizeOptions(device="gpu")


@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_stopped_and_gone_on_loses_and_repeats_nothing(how, tmp_path, monkeypatch):
    tokenize(CORPUS, tmp_path / "whole", SMALL)
    child = os.fork()
    if child == 0:
        batch, calls = OpenCorpus._batch, iter(range(100))

        def stop_in_the_third_shard(work, indices):
            if next(calls) == 7:
                os.kill(os.getpid(), getattr(signal, how))
            return batch(work, indices)

        OpenCorpus._batch = stop_in_the_third_shard
        try:
            tokenize(CORPUS, tmp_path / "stopped", SMALL)
        except Interrupted:
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (3 if how == "SIGINT" else -signal.SIGKILL)
    assert len(list((tmp_path / "stopped").glob("part-*.parquet"))) == 2
    with pytest.raises(InputError, match="tokenised in part only"):
        open_records(tmp_path / "stopped")
    asked = []
    monkeypatch.setattr(
        OpenCorpus,
        "_batch",
        lambda work, indices, batch=OpenCorpus._batch: asked.extend(indices) or batch(work, indices),
    )
    assert tokenize(CORPUS, tmp_path / "stopped", SMALL).samples == COUNT
    assert asked == list(range(10, COUNT))
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole") and not list(tmp_path.glob("*/.*.part*"))


def test_a_worker_that_dies_is_said_and_the_rest_goes_on(tmp_path):
    """A spawned one, as all are outside of these tests."""
    options = TokenizeOptions(workers=1, shard_size=5, batch_size=2)
    with pytest.raises(InputError, match=r"a worker process died.*goes on"):
        tokenize(Corpus(pairs, killers), tmp_path, options)
    assert len(list(tmp_path.glob("part-*.parquet"))) == 3
    assert tokenize(Corpus(pairs, killers), tmp_path, SMALL).samples == COUNT  # where there is no worker it lives
    assert ids(tmp_path) == [pair.id for pair in pairs()]


def test_corrupt_samples_are_counted_named_and_left_out(tmp_path):
    found = tokenize(Corpus(broken_pairs, tokenizers), tmp_path, SMALL)
    assert found.samples == COUNT - 3 and [line.split(":")[0] for line in found.skipped] == ["p4", "p5", "p20"]
    assert (tmp_path / "skipped.txt").read_text().splitlines() == found.skipped
    assert set(ids(tmp_path)) == {pair.id for pair in pairs()} - {"p4", "p5", "p20"}
    assert tokenize(Corpus(broken_pairs, tokenizers), tmp_path, SMALL).skipped == found.skipped


def test_more_corrupt_samples_than_may_be_stop_it_and_a_higher_cap_goes_on(tmp_path):
    few = TokenizeOptions(shard_size=5, batch_size=2, max_corrupt=1)
    with pytest.raises(InputError, match=r"corrupt samples: 2, more than --max-corrupt 1; the last is p5: "):
        tokenize(Corpus(broken_pairs, tokenizers), tmp_path, few)
    assert tokenize(Corpus(broken_pairs, tokenizers), tmp_path, SMALL).samples == COUNT - 3


def test_a_folder_of_something_else_is_refused(tmp_path):
    tokenize(CORPUS, tmp_path, SMALL)
    with pytest.raises(InputError, match="other shard_size; remove it"):
        tokenize(CORPUS, tmp_path, TokenizeOptions(shard_size=6))
    with pytest.raises(InputError, match="other samples and tokenizers"):
        tokenize(Corpus(lambda: pairs(9), lambda: {"image": patches(2)}), tmp_path, SMALL)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"holds other files, such as a\.png; give a new folder"):
        tokenize(CORPUS, tmp_path / "pictures", SMALL)


def test_documents_keep_their_parts_and_what_no_tokenizer_is_for(tmp_path):
    def samples():
        picture = pairs(1)[0].image
        parts = (
            Part("text", "before"),
            Part("image", picture, loss=False),
            Part("speech", b"sound"),
            Part("image", picture),
        )
        said = SpeechPair("r", (Part("text", "said"), Part("speech", b"sound")))
        return [Document("d", parts), Document("t", (Part("text", "alone"),)), said]

    tokenize(Corpus(samples, tokenizers), tmp_path, SMALL)
    found = open_records(tmp_path)
    document, alone, said = found
    assert said == samples()[2] and not found.notices
    assert [(p.kind, p.loss) for p in document.parts] == [(p.kind, p.loss) for p in samples()[0].parts]
    assert document.parts[0].value == "before" and document.parts[2].value == b"sound"
    assert torch.equal(document.parts[1].value.values, document.parts[3].value.values)
    assert alone.parts == samples()[1].parts


def loader(samples, image, **data):
    text = TextTokenizer.train(["caption picture 0123456789"], 300)
    return Loader(samples, {"text": text, "image": image}, Data(**data), Training(row_length=64, rows=2))


def test_training_on_tokens_is_training_on_pictures_without_the_tokenizer(tmp_path, monkeypatch):
    tokenize(CORPUS, tmp_path, SMALL)
    raw, tokens = (
        [
            [[(s.modality, s.values.tolist(), s.grid) for s in doc] for doc in row]
            for b in loader(x, patches()).one_pass()
            for row in b
        ]
        for x in (pairs(), open_records(tmp_path))
    )
    assert raw == tokens
    asked = []
    monkeypatch.setattr(PatchImageTokenizer, "encode", lambda self, raw: asked.append(raw))
    assert list(loader(open_records(tmp_path), patches()).one_pass()) and not asked


def test_another_tokenizer_is_refused_with_the_remedy(tmp_path):
    tokenize(CORPUS, tmp_path, SMALL)
    with pytest.raises(InputError) as caught:
        next(loader(open_records(tmp_path), patches(2)))
    made, own = patches().fingerprint[:12], patches(2).fingerprint[:12]
    assert all(word in str(caught.value) for word in (made, own, "tokenizers.image.path=", "data tokenize"))
    with pytest.raises(InputError, match=r"p0: its image is tokens already.*path=FOLDER"):
        list(raw_parts(open_records(tmp_path), "image"))


@pytest.mark.parametrize("key", ["tokens", "latents"])
def test_tokens_may_stand_in_json_records(key):
    values = [3, 1, 2, 0] if key == "tokens" else [[0.5, 1.0]] * 4
    record = {"image": {key: values, "grid": [2, 2], "fingerprint": "f"}, "caption": "c"}
    made = parse_record(json.loads(json.dumps(record)), "x.jsonl:1", "id", lambda value, field: pytest.fail("a path"))
    assert made.image.values.tolist() == values and made.image.grid == (2, 2)
    assert made.image.values.dtype == (torch.int64 if key == "tokens" else torch.float32)
    assert [part.kind for part in made.arrange(random.Random(0), Data(caption_dropout=0.0, caption_first=1.0))] == [
        "text",
        "image",
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"tokens": [1, 2]}, "fingerprint"),
        ({"tokens": [[1], [2]], "fingerprint": "f"}, "must be"),
        ({"tokens": [1.5], "fingerprint": "f"}, "cannot be read"),
        ({"tokens": ["a"], "fingerprint": "f"}, "cannot be read"),
        ({"tokens": [], "fingerprint": "f"}, "tokens"),
        ({"latents": [1.0, 2.0], "fingerprint": "f"}, "must be"),
        ({"latents": b"12345", "shape": [1, 1], "fingerprint": "f"}, "cannot be read"),
        ({"tokens": [1, 2, 3], "grid": [2, 2], "fingerprint": "f"}, "grid"),
    ],
)
def test_tokens_that_cannot_be(value, words):
    with pytest.raises(InputError, match=rf"^x\.jsonl:1: image.*{words}"):
        parse_record({"image": value}, "x.jsonl:1", "id", None)


def test_the_command_tokenises_a_recipes_source_and_training_reads_it(tmp_path, capsys):
    patches_of_digits = PatchImageTokenizer(image_size=(8, 8), patch_size=2, color_channels=1)
    patches_of_digits.save_pretrained(tmp_path / "patches")
    out = tmp_path / "tokens"
    ask = [
        "data",
        "tokenize",
        "digits",
        "data.held_out=0.1",
        "--tokenizer",
        str(tmp_path / "patches"),
        "--workers",
        "0",
    ]
    assert main([*ask, "--out", str(out)]) == 0
    assert "train: 1618 samples, 0 left out" in capsys.readouterr().out
    assert sum(read_counts(path)[0] for path in out.glob("train/*.parquet")) == 1618
    tiny = ["backbone.dim=32", "backbone.layers=1", "backbone.heads=2", "backbone.ffn_dim=64", "training.rows=2"]
    records = [f"data.records={out / 'train'}", f"data.held_out_records={out / 'held_out'}", "training.steps=2"]
    run = ["train", "digits", *tiny, *records, "evaluation.prompts=[a]", "--out"]
    assert main([*run, str(tmp_path / "run")]) == 0
    other = ["train", "digits", "tokenizers.image.patch_size=4", *run[2:]]
    assert main([*other, str(tmp_path / "other")]) == 2
    assert "data tokenize" in capsys.readouterr().err


def test_text_is_not_tokenised(tmp_path, capsys):
    TextTokenizer.train(["abc"], 300).save_pretrained(tmp_path / "text")
    assert (
        main(["data", "tokenize", "digits", "--tokenizer", str(tmp_path / "text"), "--out", str(tmp_path / "o")]) == 2
    )
    assert "text stays text" in capsys.readouterr().err
