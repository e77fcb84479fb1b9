"""Plain numbers through records, validation, tokenizer, training and generation; what is refused."""

import json

import numpy as np
import pytest
import torch
from tiny import TEXT, generator, model, words
from tiny_pipelines import build

from mot_gen.commands.main import main
from mot_gen.corpora.inputs import open_inputs
from mot_gen.corpora.validate import validate
from mot_gen.data.loader import Loader
from mot_gen.data.parsing import parse_record
from mot_gen.data.records import open_records
from mot_gen.errors import InputError
from mot_gen.eval.vectors import VectorErrors
from mot_gen.packing import pack
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.pipelines.vectors import VectorPipeline
from mot_gen.recipes.sections import Data, Training
from mot_gen.sequence import Modality, Span
from mot_gen.tokenizers.text import TextTokenizer
from mot_gen.tokenizers.vector import VectorTokenizer

NUMBERS = [[1.0, 10.0], [2.0, 30.0], [3.0, 20.0]]


def record(**given):
    return parse_record(given, "r.jsonl:1", "r", lambda value, field: value)


def test_records_hold_numbers_alone_after_a_text_or_in_parts():
    alone, after = record(vector=NUMBERS), record(vector=NUMBERS, text="up")
    parts = record(content=[{"type": "text", "text": "up"}, {"type": "pose", "pose": NUMBERS, "loss": False}])
    assert [part.kind for part in alone.parts] == ["vector"] and np.array_equal(alone.parts[0].value, NUMBERS)
    assert [part.kind for part in after.parts] == ["text", "vector"]
    assert [(part.kind, part.loss) for part in parts.parts] == [("text", True), ("pose", False)]


@pytest.mark.parametrize(
    "given, complaint",
    [
        ([[1.0], [1.0, 2.0]], "r.jsonl:1: vector: its rows have 1 and 2 numbers; give all the same"),
        ([[1.0, float("nan")]], "r.jsonl:1: vector: holds NaN or infinity"),
        ([1.0, 2.0], "r.jsonl:1: vector must be a list of lists of numbers"),
        ([], "must be a list of lists"),
        ([[]], "must be a list of lists"),
        ([["a"]], "must be a list of lists of numbers"),
        ([[True]], "must be a list of lists of numbers"),
    ],
)
def test_other_numbers_are_refused(given, complaint):
    with pytest.raises(InputError, match=complaint):
        record(vector=given)


# ---------------------------------------------------------------- the tokenizer


def test_tokens_are_standardised_and_come_back():
    tokenizer = VectorTokenizer(2).measure([NUMBERS, np.asarray(NUMBERS) + 1])
    values = torch.cat([span.values for span in tokenizer.encode_batch([NUMBERS, np.asarray(NUMBERS) + 1])])
    torch.testing.assert_close(values.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(values.std(0, unbiased=False), torch.ones(2))
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(NUMBERS)), torch.tensor(NUMBERS))


def test_modality_says_causal_or_bidirectional():
    assert VectorTokenizer(3).modality == Modality("vector", channels=3, bidirectional=True, objective="flow")
    assert not VectorTokenizer(3, causal=True).modality.bidirectional
    assert VectorTokenizer(3).grid is None and VectorTokenizer(3, length=5).grid == (1, 5)


@pytest.mark.parametrize(
    "raw, complaint",
    [
        ([[1.0, 2.0, 3.0]], r"vector: needs rows of 2 numbers, got shape \(1, 3\)"),
        ([1.0, 2.0], r"needs rows of 2 numbers, got shape \(2,\)"),
        ([[1.0, float("inf")]], "vector: holds NaN or infinity"),
        ("words", "needs rows of 2 numbers, got 'words'"),
    ],
)
def test_other_raws_are_refused(raw, complaint):
    with pytest.raises(InputError, match=complaint):
        VectorTokenizer(2).encode(raw)


def test_bad_options_are_refused():
    with pytest.raises(InputError, match="needs 5 rows of numbers, got 3"):
        VectorTokenizer(2, length=5).encode(NUMBERS)
    with pytest.raises(InputError, match="width must be a whole number of at least 1, got 0"):
        VectorTokenizer(0)
    with pytest.raises(InputError, match="mean and deviation need 2 numbers each, got 1 and 2"):
        VectorTokenizer(2, mean=[1.0])
    with pytest.raises(InputError, match="vector: number 1 is the same in all samples"):
        VectorTokenizer(2).measure([[[1.0, 5.0], [2.0, 5.0]]])


# ---------------------------------------------------------------- data


@pytest.fixture
def records_file(tmp_path):
    lines = [{"id": f"s{n}", "text": "up", "vector": [[n, 2.0 * n], [n + 1.0, n]]} for n in range(8)]
    lines.append({"id": "wide", "text": "up", "vector": [[1.0, 2.0, 3.0]]})
    path = tmp_path / "moves.jsonl"
    bad = '{"id": "hole", "vector": [[1.0, NaN]]}\n'
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + bad)
    return path


def test_the_loader_deals_them_out_and_names_what_does_not_fit(records_file):
    tokenizers = {"text": TextTokenizer.train(["up and down"], 270), "vector": VectorTokenizer(2)}
    samples = open_records(records_file)
    loader = Loader(samples, tokenizers, Data(), Training(row_length=32, rows=2, max_corrupt=5))
    rows = [row for batch in loader.one_pass() for row in batch]
    loader.close()
    assert sum(map(len, rows)) == 8
    assert [[span.modality for span in sample] for sample in rows[0]] == [["text", "vector"]] * len(rows[0])
    assert list(loader.skipped.values()) == ["wide: vector: needs rows of 2 numbers, got shape (1, 3)"]
    assert "moves.jsonl:10" in loader.broken.samples[0]


def test_validation_measures_them(records_file):
    found = validate(open_inputs(str(records_file), [])).first
    assert found.usable == 9 and found.modalities["vector"]["parts"] == 9 and found.broken.count == 1


# ---------------------------------------------------------------- the model

VECTOR = Modality("vector", channels=3, bidirectional=True, objective="flow")
CAUSAL = Modality("vector", channels=3, objective="flow")


def numbers(n=4, seed=0):
    return Span("vector", torch.randn(n, 3, generator=generator(seed)))


@pytest.mark.parametrize("modality, later", [(VECTOR, True), (CAUSAL, False)])
def test_causal_tokens_see_no_later_one_and_bidirectional_ones_all(modality, later):
    network = model([TEXT, modality])
    said = []
    for changed in (0.0, 1.0):
        span = numbers()
        span.values[-1] += changed
        batch = pack([[words(3), span]], network.modalities, 16)
        batch.latents["vector"].time = torch.tensor([0.5])
        with torch.no_grad():
            said.append(network(batch).latents["vector"])
    assert (said[0] != said[1]).any(1).tolist() == [later] * 3 + [True]


@pytest.fixture(scope="module")
def pipe():
    text = TextTokenizer.train(["reach up and down"] * 3, 270)
    vector = VectorTokenizer(3, mean=[5.0, 0.0, -5.0], deviation=[1.0, 2.0, 0.5])
    network = model([text.modality, vector.modality], context=64)
    made = VectorPipeline(network, text, vector_tokenizer=vector)
    made.set_progress_bar_config(disable=True)
    return made


def test_numbers_follow_a_prompt_and_do_not_depend_on_the_batch(pipe):
    options = {"length": 4, "num_inference_steps": 3}
    both = pipe(["up", "reach down"], generator=[generator(1), generator(2)], **options).vectors
    alone = pipe("reach down", generator=[generator(2)], **options).vectors
    assert both[0].shape == (4, 3) and 3 < both[0][:, 0].mean() < 7
    torch.testing.assert_close(both[1], alone[0], atol=1e-5, rtol=1e-5)
    assert len(pipe("up", num_vectors_per_prompt=3, **options).vectors) == 3


@pytest.mark.parametrize("kind, objective", [("PatchImageTokenizer", "flow"), ("VQImageTokenizer", "masked")])
def test_a_foreseen_picture_is_the_one_that_the_prompt_alone_draws(kind, objective):
    parts = build(kind, objective)
    vector = VectorTokenizer(3, length=2)
    parts["model"] = model([*parts["model"].modalities, vector.modality], context=128)
    drawing, foreseeing = TextToImagePipeline(**parts), VectorPipeline(**parts, vector_tokenizer=vector)
    for pipe in (drawing, foreseeing):
        pipe.set_progress_bar_config(disable=True)
    want = drawing("a nine", guidance_scale=1, num_inference_steps=20, generator=generator(1), output_type="pt").images
    found = foreseeing("a nine", foresee=True, num_inference_steps=2, generator=generator(1), output_type="pt")
    torch.testing.assert_close(found.images, want, atol=1e-5, rtol=1e-5)
    assert found.vectors[0].shape == (2, 3)


def test_a_pipeline_is_saved_with_its_numbers(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = VectorPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    options = {"length": 2, "num_inference_steps": 2}
    a, b = (each("up", generator=[generator(1)], **options).vectors[0] for each in (pipe, again))
    torch.testing.assert_close(a, b)


def test_the_command_writes_numbers(pipe, tmp_path, capsys):
    vector = VectorTokenizer(3, length=2)
    VectorPipeline(pipe.model, pipe.text_tokenizer, vector_tokenizer=vector).save_pretrained(tmp_path / "model")
    asked = ["generate", str(tmp_path / "model"), "--to", "vector", "--prompt", "up", "--num-inference-steps", "2"]
    assert main(asked) == 0
    printed = json.loads(capsys.readouterr().out)
    assert main([*asked, "--out", str(tmp_path / "moves.json")]) == 0
    written = json.loads((tmp_path / "moves.json").read_text())
    assert written["vector"] == printed and np.asarray(printed).shape == (2, 3) and written["prompt"] == "up"


def test_what_does_not_fit_the_pipeline_is_refused(pipe):
    with pytest.raises(InputError, match="length: this checkpoint's vectors may have any; say how many"):
        pipe("up")
    with pytest.raises(InputError, match="length must be a positive integer, got -1"):
        pipe("up", length=-1)
    with pytest.raises(InputError, match="this checkpoint has no image"):
        pipe("up", length=2, foresee=True)
    with pytest.raises(InputError, match="exceed the 64"):
        pipe("up", length=80)


# ---------------------------------------------------------------- the metric


def test_errors_are_those_of_the_formulas():
    right = [torch.tensor([[0.0, 0.0], [2.0, 4.0]]), torch.tensor([[4.0, 2.0]])]
    predicted = [torch.tensor([[1.0, 0.0], [2.0, 1.0]]), torch.tensor([[4.0, 4.0]])]
    metric = VectorErrors()
    metric.update(predicted, right)
    found = metric.compute()
    squares, spread = 1 + 9 + 4, 8 + 8  # both channels are 0, 2, 4 in some order, about 2
    assert found.value == pytest.approx(squares / 6) and found.n == {"pairs": 2, "tokens": 3}
    assert found.details["r2"] == pytest.approx(1 - squares / spread)
    assert found.details["mean_absolute"] == pytest.approx(1.0) and found.details["last"] == pytest.approx(2.5)
    with pytest.raises(InputError, match="pair 0: a prediction of shape"):
        metric.update([torch.zeros(2, 2)], [torch.zeros(3, 2)])
