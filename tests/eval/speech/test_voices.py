"""Speaker similarity and predicted opinion scores by transformers models from a folder."""

import pytest
import torch
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2ForXVector,
    Wav2Vec2Model,
)

from mot_gen.errors import InputError
from mot_gen.eval import evaluate_speech
from mot_gen.eval.images.detectors import TransformersDetector
from mot_gen.eval.speech.voices import PredictedOpinion, SpeakerSimilarity

SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8, 8),
    "conv_kernel": (10, 8),
    "conv_stride": (10, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


def saved(model, folder, rate=16000):
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=rate, return_attention_mask=False).save_pretrained(folder)
    return model.eval()


def sounds(seed, n=2):
    g = torch.Generator().manual_seed(seed)
    return [torch.rand(8000 + 100 * i, generator=g) - 0.5 for i in range(n)]


def normalised(sound):
    """As the feature extractor does it: no mean, unit variance."""
    return ((sound - sound.mean()) / torch.sqrt(sound.var(correction=0) + 1e-7))[None]


def test_speaker_similarity_is_the_cosine_of_x_vectors(tmp_path):
    torch.manual_seed(0)
    options = {"tdnn_dim": (8, 8), "tdnn_kernel": (3, 1), "tdnn_dilation": (1, 1), "xvector_output_dim": 6}
    model = saved(Wav2Vec2ForXVector(Wav2Vec2Config(**SIZE, **options)), tmp_path)
    made, real = sounds(0), sounds(1)
    with torch.no_grad():
        expected = [
            torch.cosine_similarity(*(model(normalised(sound)).embeddings for sound in pair)).item()
            for pair in zip(made, real)
        ]
    found = evaluate_speech(made, real, "speaker", speaker=tmp_path)["speaker"]
    assert found.value == pytest.approx(sum(expected) / 2, abs=1e-5) and "sha256:" in found.signature
    assert evaluate_speech(made, made, "speaker", speaker=tmp_path)["speaker"].value == pytest.approx(1)


def test_predicted_opinion_is_the_models_one_output(tmp_path):
    torch.manual_seed(0)
    model = saved(Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SIZE, num_labels=1)), tmp_path)
    heard = sounds(2, 3)
    metric = PredictedOpinion(tmp_path)
    metric.update(heard)
    with torch.no_grad():
        expected = [model(normalised(sound)).logits.item() for sound in heard]
    assert metric.segment_scores() == pytest.approx(expected, abs=1e-5)
    alone = evaluate_speech(heard, metrics="mos", mos=tmp_path)["mos"]
    assert alone.value == pytest.approx(sum(expected) / 3, abs=1e-5)
    with pytest.raises(InputError, match=r"record 1: .*cannot hear 5 samples; give sounds of a second"):
        evaluate_speech([torch.zeros(5)], metrics="mos", mos=tmp_path)


def test_what_does_not_fit_is_refused(tmp_path):
    saved(Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SIZE, num_labels=3)), tmp_path / "three")
    with pytest.raises(InputError, match="the model has 3 outputs"):
        PredictedOpinion(tmp_path / "three")
    saved(Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SIZE, num_labels=1)), tmp_path / "rate", 8000)
    with pytest.raises(InputError, match="hears at 8000 Hz"):
        PredictedOpinion(tmp_path / "rate")
    Wav2Vec2Model(Wav2Vec2Config(**SIZE)).save_pretrained(tmp_path / "rate")  # its head would be random
    with pytest.raises(InputError, match="rate: lacks 4 weights of a Wav2Vec2ForSequenceClassification, such as class"):
        PredictedOpinion(tmp_path / "rate")
    with pytest.raises(InputError, match="three: cannot be read by AutoModelForObjectDetection of transformers"):
        TransformersDetector(tmp_path / "three")
    with pytest.raises(InputError, match="sounds without a model"):
        SpeakerSimilarity().update(sounds(0), sounds(1))
