"""`mot_gen.eval`'s calls: paths, arrays or tensors in, results out, with the same numbers as the metrics themselves."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mot_gen.errors import InputError
from mot_gen.eval import (
    evaluate_detections,
    evaluate_image_text,
    evaluate_images,
    evaluate_speech,
    evaluate_text,
    reference_statistics,
)
from mot_gen.eval.images.clip import CLIPScore, RPrecision
from mot_gen.eval.images.frechet import FrechetDistance
from mot_gen.eval.images.geneval import GenEval
from mot_gen.eval.images.image_pairs import PSNR
from mot_gen.eval.images.inception_score import InceptionScore
from mot_gen.eval.images.kernel import KernelDistance
from mot_gen.eval.images.settings import ImageSettings
from mot_gen.eval.speech.mel_cepstral import MelCepstralDistortion
from mot_gen.eval.text.diversity import DistinctN, SelfBLEU
from mot_gen.eval.text.edits import WordErrorRate
from mot_gen.eval.text.likelihood import BitsPerByte, Perplexity
from mot_gen.eval.text.mt import BLEU


def pictures(n, seed):
    return torch.randint(0, 256, (n, 3, 12, 10), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def folder(path, images):
    path.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path / f"{number:03d}.png")
    return path


def by_hand(metric, real, fake):
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute().value


def test_images_as_paths_tensors_arrays_and_lists_are_one(tmp_path):
    real, fake = pictures(40, 0), pictures(30, 1)
    expected = by_hand(FrechetDistance("pixels"), real, fake)
    forms = [
        (folder(tmp_path / "real", real), str(folder(tmp_path / "fake", fake))),
        (real, fake.double() / 255),
        (real.permute(0, 2, 3, 1).numpy(), list(fake)),
    ]
    for one, two in forms:
        result = evaluate_images(one, two, metrics=["fd"], extractor="pixels")["fd"]
        assert result.value == pytest.approx(expected, rel=1e-12)
        assert result.name == "FD[pixels]" and result.n == {"real": 40, "fake": 30}


def test_too_few_images_are_refused_before_any_is_read(tmp_path, monkeypatch):
    real, fake = (folder(tmp_path / name, pictures(2, seed)) for seed, name in enumerate(("real", "fake")))
    assert evaluate_images(real, fake, metrics="fd,vendi", extractor="pixels")["fd"].n == {"real": 2, "fake": 2}
    monkeypatch.setattr(ImageSettings, "shards", None)
    with pytest.raises(InputError, match=r"real: N = 2, and pr needs at least 6 a side; .* --metrics fd,kd$"):
        evaluate_images(real, fake, extractor="pixels")


def test_features_in_place_of_images():
    real, fake = torch.randn(50, 4), torch.randn(60, 4)
    results = evaluate_images(real.numpy(), fake, metrics="fd,pr")
    assert results["fd"].value == pytest.approx(by_hand(FrechetDistance(), real, fake), rel=1e-12)
    assert set(results) == {"fd", "precision", "recall", "density", "coverage"}
    with pytest.raises(InputError, match="features are not enough for is"):
        evaluate_images(real, fake, metrics="is")
    with pytest.raises(InputError, match="features on one side meet images on the other"):
        evaluate_images(real, pictures(4, 0), metrics="fd")


def test_statistics_in_place_of_real_images(tmp_path):
    real, fake = pictures(40, 0), pictures(30, 1)
    made, unreadable = reference_statistics(real, extractor="pixels")
    made.save(tmp_path / "ref.npz")
    expected = evaluate_images(real, fake, "fd", extractor="pixels")["fd"].value
    for given in (made, tmp_path / "ref.npz"):
        assert evaluate_images(given, fake, "fd", extractor="pixels")["fd"].value == pytest.approx(expected, rel=1e-12)
    assert unreadable == []
    with pytest.raises(InputError, match="statistics are enough for fd, not for kd"):
        evaluate_images(made, fake, "kd", extractor="pixels")


def test_pairs_in_memory_are_compared():
    one, two = pictures(5, 0), pictures(5, 1)
    metric = PSNR()
    metric.update(two, one)
    assert evaluate_images(one, two, metrics=["psnr"])["psnr"].value == pytest.approx(metric.compute().value)


def test_texts_as_lists_dictionaries_and_a_file(tmp_path):
    predictions, references = ["the cat sat", "a dog ran"], [["a cat sat", "the cat sat"], "the dog ran"]
    metric = BLEU()
    metric.update(predictions, [["a cat sat", "the cat sat"], ["the dog ran"]])
    lines = [
        {"prediction": text, "references": [own] if isinstance(own, str) else own}
        for text, own in zip(predictions, references)
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for given in ((predictions, references), (lines,), (tmp_path / "p.jsonl",)):
        assert evaluate_text(*given, metrics=["bleu"])["bleu"].value == pytest.approx(metric.compute().value)


def test_error_rates_and_parts_of_rouge_are_names_of_text():
    found = evaluate_text(["one two"], ["one two three"], "wer,cer,mer,wil,rouge1,rouge2,rougeL,rougeLsum")
    assert list(found) == ["wer", "cer", "mer", "wil", "rouge1", "rouge2", "rougeL", "rougeLsum"]
    assert found["wer"].value == pytest.approx(1 / 3) and found["rouge1"].value == pytest.approx(0.8)
    with pytest.raises(InputError, match="2 references, but wer is defined with one"):
        evaluate_text(["a"], [["a", "b"]], "wer")


def test_the_names_ter_ignores_case_as_sacrebleu_does():
    assert evaluate_text(["The CAT sat"], ["the cat sat"], "ter")["ter"].value == 0


def test_likelihood_of_lists():
    found = evaluate_text(["", ""], ["abcd", "ab"], "bits_per_byte", nats=[np.log(2) * 6, 0.0])
    assert found["bits_per_byte"].value == pytest.approx(1)


def test_speech_of_texts_units_and_sounds():
    metric = WordErrorRate()
    metric.update(["one two"], ["one two three"])
    assert evaluate_speech(["one two"], ["one two three"])["wer"].value == metric.compute().value
    assert evaluate_speech([torch.tensor([1, 2])], [[[1, 3]]], "uer")["uer"].value == 0.5
    sound = torch.rand(72000, generator=torch.Generator().manual_seed(0)) - 0.5
    found = evaluate_speech([sound], [sound.numpy()], ["mcd", "fad"], sample_rate=24000)
    assert found["mcd"].value == 0 and found["fad"].value == pytest.approx(0, abs=1e-9)
    with pytest.raises(InputError, match="wer reads texts and mcd hears sounds"):
        evaluate_speech(["a"], ["a"], "wer,mcd")


def test_images_with_texts_in_memory():
    found = evaluate_image_text(pictures(2, 0), ["ab", "cd"], "ocr") if rapidocr() else None
    assert found is None or found["ocr"].n == {"images": 2}
    with pytest.raises(InputError, match="2 images against 1 texts"):
        evaluate_image_text(pictures(2, 0), ["ab"], "ocr")
    with pytest.raises(InputError, match="clip: no model given"):
        evaluate_image_text(pictures(1, 0), ["ab"])


def rapidocr():
    try:
        import rapidocr_onnxruntime
    except ImportError:
        return None
    return rapidocr_onnxruntime


def test_detections_in_memory():
    record = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "detections": []}
    seen = [{"class": "dog", "score": 0.9, "box": [0, 0, 9, 9]}]
    found = evaluate_detections([record, {**record, "detections": seen}], detector="mine")
    assert found["geneval"].value == 0.5 and "detector:mine" in found["geneval"].signature


def test_unknown_options_and_names_suggest_the_nearest():
    with pytest.raises(InputError, match="option 'extracter' is not known; did you mean 'extractor'"):
        evaluate_images(pictures(3, 0), pictures(3, 1), extracter="pixels")
    with pytest.raises(InputError, match="metrics: 'roug1' is not known; did you mean 'rouge1'"):
        evaluate_text(["a"], ["a"], "roug1")
    with pytest.raises(InputError, match="option 'lower' is not known"):
        evaluate_text(["a"], ["a"], "bleu", lower=True)


def test_looking_at_names_imports_nothing_heavy():
    code = "import sys, mot_gen.eval, mot_gen.eval.text.evaluate; print(sorted({'torch'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_metric_objects_take_what_pipelines_and_arrays_give():
    """Lists of PIL images, tensors and arrays, channels first or last, are the tensor that they make."""
    real, fake = pictures(9, 1), pictures(8, 2)
    want = by_hand(FrechetDistance("pixels"), real, fake)
    as_pil = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in fake]
    for given in (as_pil, list(fake), list(fake.numpy()), fake.numpy(), fake.permute(0, 2, 3, 1).numpy()):
        assert by_hand(FrechetDistance("pixels"), real.numpy(), given) == want
    metric = PSNR()
    metric.update(as_pil, list(real[:8] / 255))
    alone = PSNR()
    alone.update(fake, real[:8] / 255)
    assert metric.compute().value == alone.compute().value
    assert f"{alone.compute():.1f}" == f"{alone.compute().value:.1f}"


SOUND, FLAT = torch.ones(16000), torch.zeros(4, 3, 8, 8)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: FrechetDistance("pixels").update([], real=True), "a tensor, an array or a list of pictures, got "),
        (lambda: FrechetDistance("pixels").update([pictures(1, 0)[0], torch.rand(3, 4, 4)], True), "several sizes"),
        (lambda: KernelDistance(subset_size=1), "subset_size: must be None or at least 2, got 1"),
        (lambda: KernelDistance(subsets=0), "subsets: must be at least 1, got 0"),
        (lambda: InceptionScore(splits=0), "splits: must be at least 1, got 0"),
        (lambda: FrechetDistance(feature=64), "`feature`; it takes feature_extractor, reference, confidence, clamp"),
        (lambda: BLEU(confidence="95%"), "confidence '95%' is not between 0 and 1"),
        (lambda: BLEU(tokenize="14a"), "bleu: tokenize '14a' is not known"),
        (lambda: BLEU(smooth="flor"), "bleu: smooth 'flor' is not known; did you mean 'floor'"),
        (lambda: DistinctN(0), "n: must be a positive integer, got 0"),
        (lambda: BLEU().update("a cat", "a dog"), "predictions: must be a list of texts, got a single text"),
        (lambda: BLEU().update([None], ["a"]), "predictions: number 0 must be a text, got None"),
        (lambda: BLEU().update(["a"], [[None]]), "references of prediction 0: number 0 must be a text, got None"),
        (lambda: WordErrorRate().update("a cat", "a dog"), "predictions: must be a list, got a single text"),
        (lambda: WordErrorRate().update([None], ["a"]), "prediction 0: cannot be counted in words or units, got None"),
        (lambda: SelfBLEU().update("a cat"), "predictions: must be a list of texts, got a single text"),
        (lambda: Perplexity().update(torch.zeros(1, 2, 3), torch.tensor([[0, 3]])), r"\[3\] lies outside of the 3"),
        (lambda: Perplexity().update(torch.zeros(1, 1, 3), torch.zeros(1, 1)), "targets must be integer ids"),
        (lambda: BitsPerByte().update([3.0, 4.0], "ab"), "texts: must be a list, got a single text"),
        (lambda: CLIPScore().update(torch.rand(2, 4), torch.rand(2, 5)), "images have 4 dimensions, of texts 5"),
        (lambda: CLIPScore().update(torch.full((1, 4), math.nan), torch.rand(1, 4)), "embeddings hold NaN"),
        (lambda: RPrecision().update(torch.rand(2, 4), torch.rand(2, 4)), "candidates must be lists of texts, or"),
        (lambda: GenEval().update({"tag": "counting"}), "detections record 0: must be a dict in a list"),
        (lambda: MelCepstralDistortion(sample_rate=0), "sample_rate must be a positive integer, in Hz, got 0"),
        (lambda: MelCepstralDistortion().update(["a.wav"], ["b.wav"]), "must be a tensor or an array; read files"),
        (lambda: MelCepstralDistortion().update([torch.rand(2, 900)], [torch.rand(900)]), "needs .* of one channel"),
        (lambda: MelCepstralDistortion().update([torch.rand(900) / 0], [torch.rand(900)]), "holds NaN or infinity"),
        (lambda: evaluate_text("the cat", ["a cat"]), "predictions: must be a list; or give the path of a jsonl"),
        (lambda: evaluate_text(["a", "b"], "ab"), "references: must be a list, got a single text"),
        (lambda: evaluate_image_text(pictures(2, 0), "ab", "vqa", vqa=print), "texts: must be a list, got a single"),
        (lambda: evaluate_image_text(pictures(2, 0), metrics="vqa", vqa=print), "record 1: is Tensor; a record is a"),
        (lambda: evaluate_speech(["a.wav"], metrics="mcd"), "mcd needs references"),
        (lambda: evaluate_speech([SOUND], [SOUND], "mcd", sample_rate=0), "sample_rate must be a positive integer"),
        (lambda: evaluate_speech("a.wav", "b.wav"), "predictions: must be a list; or give the path of a jsonl"),
        (lambda: evaluate_speech([SOUND.int()], [SOUND], "fad"), "record 1: prediction_audio: .*divide 16 bits by"),
        (lambda: evaluate_speech([SOUND], [SOUND * 9], "mcd"), "record 1: reference_audio: waveforms reach 9; scale"),
        (lambda: evaluate_speech([SOUND[:9]], [SOUND], "fad"), "record 1: waveforms of 9 samples are shorter than"),
        (lambda: evaluate_images(FLAT, FLAT, "kd", extractor="pixels", workers=0), "workers must be 1 or more, got 0"),
        (lambda: Perplexity().update(torch.full((1, 1, 3), math.nan), torch.tensor([[0]])), "logits hold NaN"),
    ],
)
def test_what_metric_objects_cannot_take_is_said_in_a_line(call, says):
    with pytest.raises(InputError, match=says) as refused:
        call()
    assert "\n" not in str(refused.value)
