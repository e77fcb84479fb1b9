"""MAUVE and BERTScore against their authors' packages, with random models."""

import math
from shutil import copytree

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mot_gen.errors import InputError
from mot_gen.eval import evaluate_text
from mot_gen.eval.text.bert_score import BERTScore
from mot_gen.eval.text.embeddings import TextEncoder
from mot_gen.eval.text.mauve import MAUVE, cluster_histograms, mauve_score

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "a", "mat", "hill", "two"]
PREDICTIONS = ["the cat sat on a mat", "two dog ran", "a hill"]
REFERENCES = [["a cat sat on the mat", "the cat ran"], ["two dog sat"], ["the hill the hill"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random BERT of two layers, with a tokenizer of whole words."""
    out = tmp_path_factory.mktemp("bert")
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("[CLS]", 1), ("[SEP]", 2)]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names).save_pretrained(out)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **size)).save_pretrained(out)
    return out


def test_a_pooler_that_was_not_saved_is_none_and_not_random(folder, tmp_path):
    copytree(folder, tmp_path, dirs_exist_ok=True)
    model = BertModel.from_pretrained(folder, add_pooling_layer=False)
    model.save_pretrained(tmp_path)
    one, two = TextEncoder(tmp_path), TextEncoder(tmp_path)
    assert one.model.pooler is None and one.provenance() == two.provenance()
    model.encoder.layer = model.encoder.layer[:1]
    model.save_pretrained(tmp_path)  # the config still says two layers
    with pytest.raises(InputError, match=r"lacks 16 weights of a BertModel, such as encoder\.layer\.1"):
        TextEncoder(tmp_path)


@pytest.mark.parametrize("layer", [1, 2])
def test_bertscore_is_its_authors(folder, layer):
    reference = pytest.importorskip("bert_score")
    precision, recall, f1 = reference.score(PREDICTIONS, REFERENCES, model_type=str(folder), num_layers=layer)
    found = evaluate_text(PREDICTIONS, REFERENCES, "bertscore", bertscore=folder, bertscore_layer=layer)
    assert found["bertscore_f1"].value == pytest.approx(f1.mean().item(), abs=1e-5)
    # The package takes the best precision and recall of several references each by itself.
    one = [[own[0]] for own in REFERENCES]
    precision, recall, _ = reference.score(PREDICTIONS, one, model_type=str(folder), num_layers=layer)
    found = evaluate_text(PREDICTIONS, one, "bertscore", bertscore=folder, bertscore_layer=layer)
    assert found["bertscore_precision"].value == pytest.approx(precision.mean().item(), abs=1e-5)
    assert found["bertscore_recall"].value == pytest.approx(recall.mean().item(), abs=1e-5)
    assert f"layer:{layer}" in found["bertscore_f1"].signature and "sha256:" in found["bertscore_f1"].signature


def test_bertscore_of_the_same_text_is_one(folder):
    metric = BERTScore(folder)
    metric.update(["the cat sat"], [["the cat sat"]])
    assert metric.compute()["bertscore_f1"].value == pytest.approx(1)
    with pytest.raises(InputError, match="layer 7 is not between 0 and 2"):
        BERTScore(folder, layer=7)


def test_mauve_of_histograms_is_its_authors():
    reference = pytest.importorskip("mauve.compute_mauve")
    draw = np.random.default_rng(0)
    for _ in range(5):
        one, two = draw.dirichlet(np.ones(12)), draw.dirichlet(np.full(12, 0.3))
        one[:2] = 0
        one /= one.sum()
        curve = reference.get_divergence_curve_for_multinomials(one, two, np.linspace(1e-6, 1 - 1e-6, 25), 5)
        x, y = curve.T
        area = reference.compute_area_under_curve
        expected = 0.5 * (area(x[np.argsort(x)], y[np.argsort(x)]) + area(y[np.argsort(y)], x[np.argsort(y)]))
        assert mauve_score(torch.from_numpy(one), torch.from_numpy(two)) == pytest.approx(expected, rel=1e-9)


def test_mauve_of_features_is_its_authors_where_clusters_are_clear():
    mauve = pytest.importorskip("mauve")
    g = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(4, 16, generator=g, dtype=torch.float64), dim=1)

    def texts(counts):
        rows = torch.cat([centres[i].expand(count, -1) for i, count in enumerate(counts)])
        return rows + 0.01 * torch.randn(rows.shape, generator=g, dtype=torch.float64)

    human, made = texts([20, 10, 5, 5]), texts([5, 10, 20, 5])
    metric = MAUVE(clusters=4)
    metric.update(human, real=True)
    metric.update(made, real=False)
    expected = mauve.compute_mauve(p_features=human.numpy(), q_features=made.numpy(), num_buckets=4, verbose=False)
    assert metric.compute().value == pytest.approx(expected.mauve, abs=1e-6)
    one, two = cluster_histograms(human, made, 4)
    assert sorted(one.tolist()) == [0.125, 0.125, 0.25, 0.5] and two.sum() == 1


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_mauve_of_texts(folder):
    same = evaluate_text(WORDS * 4, WORDS * 4, "mauve", mauve=folder)["mauve"]
    other = evaluate_text(["the cat"] * 40, ["two dog ran on a hill"] * 40, "mauve", mauve=folder)["mauve"]
    assert same.value == pytest.approx(1, abs=0.01) and other.value < 0.02
    assert "extractor:bert" in same.signature and same.n == {"real": 40, "fake": 40}
    assert math.isfinite(same.value) and "N = 40 is below 5000" in same.warnings[0]
    with pytest.raises(InputError, match="mauve: no model given"):
        evaluate_text(["a"], ["a"], "mauve")
