"""Speech units: gain, collapse, batches and durations; features, vocoders and training against closed forms."""

import itertools
import math

import pytest
import torch
from sklearn.metrics import mutual_info_score
from tokenizer_examples import chirp, speech_tokenizer

from mot_gen.errors import InputError
from mot_gen.sequence import Span
from mot_gen.tokenizers.speech_decoder import DecoderConfig, UnitDecoder
from mot_gen.tokenizers.speech_features import (
    LEVEL,
    EncoderFeatures,
    LogMelFeatures,
    MelSettings,
    at_level,
    log_mel,
    mel_filters,
)
from mot_gen.tokenizers.speech_measures import agreement, phone_purity, speech_report
from mot_gen.tokenizers.speech_units import SpeechUnitTokenizer
from mot_gen.tokenizers.speech_vocoder import TransformersVocoder, griffin_lim, magnitudes
from mot_gen.tokenizers.train_speech_units import SpeechTraining, fit_units, train_speech_units

CHIRPS = [chirp(i) for i in range(6)]
QUIETER = 10 ** (-3 / 20)


@pytest.fixture(scope="module")
def tokenizer():
    return speech_tokenizer()


@pytest.fixture(scope="module")
def collapsing():
    return speech_tokenizer(collapse=True)


def test_units_come_25_a_second_and_do_not_hear_the_gain(tokenizer):
    for sound in CHIRPS:
        span = tokenizer.encode(sound)
        assert len(span) == math.ceil(len(sound) / 640)
        assert torch.equal(tokenizer.encode(sound * QUIETER).values, span.values)
        sixteen_bits = (sound * QUIETER * 2**15).round().to(torch.int16)
        assert agreement(tokenizer.encode(sixteen_bits).values, span.values) >= 0.95


def test_decoded_sound_is_as_long_as_its_units_and_encodes_to_them(tokenizer):
    report = speech_report(tokenizer, CHIRPS)
    assert report["gain_agreement"] == 1 and report["codebook_use"] > 0.5
    assert report["reencoding_agreement"] >= 0.6
    # A tokenizer that knew nothing of its input would be as far from it as chirps are from one another.
    features = [log_mel(tokenizer.waveform(sound)[None], tokenizer.features.mel)[0] for sound in CHIRPS]
    others = torch.stack([(a - b).abs().mean() for a, b in itertools.pairwise(features)]).mean().item()
    assert report["mel_distance"] < 0.5 * others
    for span in tokenizer.encode_batch(CHIRPS[:2]):
        assert len(tokenizer.decode(span)) == 640 * len(span)


def test_recordings_of_different_lengths_are_encoded_as_alone(tokenizer):
    sounds = [CHIRPS[0], CHIRPS[1][:5000], CHIRPS[2][:1], CHIRPS[3], CHIRPS[4][:700]]
    sounds[2] = torch.tensor([0.1, 0.2])
    for sound, span in zip(sounds, tokenizer.encode_batch(sounds)):
        assert torch.equal(span.values, tokenizer.encode(sound).values)


def test_collapsed_spans_have_no_repeats_and_durations_are_learned(tokenizer, collapsing):
    for sound in CHIRPS:
        kept, collapsed = tokenizer.encode(sound).values, collapsing.encode(sound).values
        assert torch.equal(collapsed, kept.unique_consecutive()) and (collapsed[1:] != collapsed[:-1]).all()
        assert len(collapsing.decode(Span("speech", collapsed))) == pytest.approx(len(sound), rel=0.4)


def test_any_raw_recording_is_one_recording(tokenizer, tmp_path):
    import soundfile

    soundfile.write(tmp_path / "a.flac", CHIRPS[0].numpy(), 16000)
    expected = tokenizer.encode(tmp_path / "a.flac").values
    assert torch.equal(tokenizer.encode((tmp_path / "a.flac").read_bytes()).values, expected)
    assert agreement(tokenizer.encode((torch.stack([CHIRPS[0]] * 8), 16000)).values, expected) >= 0.95
    soundfile.write(tmp_path / "b.wav", CHIRPS[0].repeat_interleave(3).numpy(), 48000)
    assert agreement(tokenizer.encode(tmp_path / "b.wav").values, expected) >= 0.8


@pytest.mark.parametrize("raw", [torch.zeros(0), torch.zeros(16000), torch.ones(1), torch.full((900,), math.nan)])
def test_what_cannot_be_encoded_is_refused_in_one_line(tokenizer, raw):
    with pytest.raises(InputError) as caught:
        tokenizer.encode(raw)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ids", [[], [-1], [10**6], [[1, 2]]])
def test_spans_that_are_not_units_are_refused(tokenizer, ids):
    with pytest.raises(InputError, match="speech"):
        tokenizer.decode(Span("speech", torch.tensor(ids, dtype=torch.int64)))


# ---------------------------------------------------------------- features


def test_the_spectrogram_of_a_tone_is_its_amplitude_times_the_window_and_the_filters():
    mel, bin_ = MelSettings(floor=1e-9), 64
    time = torch.arange(16000, dtype=torch.float64) / 16000
    tone = (0.3 * torch.sin(2 * math.pi * bin_ * 16000 / 1024 * time)).float()
    frames = log_mel(tone[None], mel)[0]
    assert frames.shape == (100, 80)
    # A tone in the middle of a bin: half the amplitude times the window's transform, at each bin's distance from it.
    padded = torch.zeros(1024, dtype=torch.complex128)
    padded[:640] = torch.hann_window(640, dtype=torch.float64)
    response = torch.fft.fft(padded).abs()
    bins = torch.arange(513)
    spectrum = 0.15 * response[(bins - bin_).abs()].float()
    expected = (mel_filters(mel, torch.device("cpu")) @ spectrum).log()
    near = expected > expected.max() - 4
    assert (frames[10:-10][:, near] - expected[near]).abs().max() < 0.01


def test_features_are_the_frames_around_each_unit():
    features, sound = LogMelFeatures(context=1), at_level(CHIRPS[0])
    assert sound.square().mean().sqrt().item() == pytest.approx(LEVEL)
    frames, vectors = log_mel(sound[None], features.mel)[0], features(sound[None])[0]
    assert vectors.shape == (25, 6 * 80) and features.channels == 480
    # unfold puts the window last: bands by frames.
    assert torch.equal(vectors[3].view(80, 6).T, frames[11:17])
    assert (vectors[0].view(80, 6)[:, 0] == math.log(features.mel.floor)).all()


@pytest.mark.parametrize("wrong", [{"unit_rate": 7.0}, {"unit_rate": -1.0}, {"unit_rate": 3200.0}])
def test_unit_rates_that_do_not_fit_are_refused(wrong):
    with pytest.raises(InputError, match="unit_rate"):
        LogMelFeatures(**wrong)


ENCODERS = ["hubert", "wav2vec2", "wavlm"]


def tiny_encoder(kind, folder):
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(
        kind, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(config).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoder_features_are_the_mean_of_two_frames_of_the_layer(kind, tmp_path):
    model = tiny_encoder(kind, tmp_path)
    features, sound = EncoderFeatures.from_pretrained(tmp_path, layer=1), at_level(CHIRPS[0])[None]
    vectors = features(sound)
    scaled = (sound - sound.mean()) / sound.std()
    states = model(torch.nn.functional.pad(scaled, (40, 40)), output_hidden_states=True).hidden_states[1]
    assert states.shape[1] == 50 and vectors.shape == (1, 25, 16)
    assert torch.allclose(vectors[0], states[0].view(25, 2, 16).mean(1), atol=1e-5)


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_tokenizer_on_an_encoder_saves_it_and_gives_the_same_units(kind, tmp_path):
    tiny_encoder(kind, tmp_path / "encoder")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = SpeechUnitTokenizer.with_encoder(tmp_path / "encoder", 2, vocab_size=12)
        train_speech_units(made, CHIRPS, SpeechTraining(steps=2, batch_size=2))
    made.save_pretrained(tmp_path / "saved")
    loaded = SpeechUnitTokenizer.from_pretrained(tmp_path / "saved")
    assert loaded.fingerprint == made.fingerprint
    for one, two in zip(made.encode_batch(CHIRPS), loaded.encode_batch(CHIRPS)):
        assert torch.equal(one.values, two.values) and len(one) == 25
    assert torch.equal(made.encode(CHIRPS[0] * QUIETER).values, made.encode(CHIRPS[0]).values)
    with pytest.raises(InputError, match="no speech encoder"):
        SpeechUnitTokenizer.with_encoder(tmp_path / "missing", 2)
    with pytest.raises(InputError, match="layer 3"):
        SpeechUnitTokenizer.with_encoder(tmp_path / "encoder", 3)
    config = tmp_path / "encoder" / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(InputError, match=r"encoder: lacks \d+ weights of a \w+Model, such as encoder\.layers\.2\."):
        SpeechUnitTokenizer.with_encoder(tmp_path / "encoder", 2)


# ---------------------------------------------------------------- back to sound


def test_magnitudes_have_the_mel_bands_they_were_made_from():
    mel = MelSettings(floor=1e-5)
    frames = log_mel(at_level(CHIRPS[1])[None], mel)[0]
    spectrum = magnitudes(frames, mel, 500)
    assert spectrum.shape == (513, 100) and (spectrum >= 0).all()
    bands = mel_filters(mel, torch.device("cpu")) @ spectrum
    assert ((bands - frames.exp().T).norm() / frames.exp().norm()).item() < 0.02


def test_griffin_lim_gives_back_the_spectrogram_and_its_timing():
    mel = MelSettings(floor=1e-3)
    sound = at_level(CHIRPS[1])
    sound = torch.cat([sound[:8000] * 0.05, sound[8000:]])
    frames = log_mel(sound[None], mel)[0]
    heard = griffin_lim(frames, mel)
    assert heard.shape == sound.shape and torch.equal(heard, griffin_lim(frames, mel))
    assert (log_mel(heard[None], mel)[0] - frames).abs().mean() < 0.25
    energy = heard.view(-1, 400).square().mean(1)
    assert energy[:19].max() < 0.1 * energy[21:].min()


def test_a_vocoder_of_transformers_is_used_and_saved_and_must_fit(tmp_path):
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    config = SpeechT5HifiGanConfig(
        model_in_dim=8, upsample_initial_channel=8, upsample_rates=[8, 20], upsample_kernel_sizes=[16, 40],
        resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]],
    )  # fmt: skip
    SpeechT5HifiGan(config).save_pretrained(tmp_path / "vocoder")
    made = SpeechUnitTokenizer(vocab_size=4, mel_config={"n_mels": 8}).eval().use_vocoder(tmp_path / "vocoder")
    span = Span("speech", torch.tensor([0, 3, 1]))
    expected = made.vocoder.network(made.log_mel(span.values)).detach()
    assert expected.shape == (3 * 640,)
    assert torch.allclose(made.decode(span), expected / expected.abs().max().clamp_min(1))
    made.save_pretrained(tmp_path / "saved")
    loaded = SpeechUnitTokenizer.from_pretrained(tmp_path / "saved")
    assert torch.allclose(loaded.decode(span), made.decode(span), atol=1e-5)
    with pytest.raises(InputError, match="hop_length"):
        TransformersVocoder.from_pretrained(tmp_path / "vocoder", MelSettings(n_mels=8, hop_length=128))
    with pytest.raises(InputError, match="no vocoder"):
        made.use_vocoder(tmp_path / "missing")


def test_the_decoder_is_blind_to_padding_and_keeps_durations():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = UnitDecoder(10, 6, 2.5, DecoderConfig(8, 2, 8, 2)).eval()
    units, durations = (
        torch.tensor([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]]),
        torch.tensor([[2, 1, 4, 0, 0], [1, 1, 1, 1, 1]]),
    )
    with torch.no_grad():
        together, frames = decoder.spectrogram(decoder.encode_units(units, torch.tensor([3, 5])), durations)
        alone, _ = decoder.spectrogram(decoder.encode_units(units[:1, :3], torch.tensor([3])), durations[:1, :3])
    assert frames.tolist() == [18, 13]  # 7 and 5 units' time, 2.5 frames each, rounded up
    assert torch.allclose(together[0, :18], alone[0], atol=1e-5)


# ---------------------------------------------------------------- training


def test_clusters_are_found_and_too_little_speech_is_refused():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(5, 3, generator=generator) * 20
    points = centres.repeat(40, 1) + torch.randn(200, 3, generator=generator) * 0.1
    found = fit_units([points[:120], points[120:]], 5, SpeechTraining())
    assert torch.cdist(centres, found).min(1).values.max() < 0.1
    with pytest.raises(InputError, match="too little for 201 units"):
        fit_units([points], 201, SpeechTraining())


def test_training_is_the_seeds_and_lowers_the_loss():
    rows = []
    make = {"vocab_size": 8, "decoder_config": {"unit_channels": 16, "frame_channels": 16}}
    fingerprints = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = SpeechUnitTokenizer(**make)
        options = SpeechTraining(steps=20, batch_size=2, log_every=10, lr=1e-2, warmup_steps=2)
        fingerprints.append(train_speech_units(made, CHIRPS, options, rows.append).fingerprint)
    assert fingerprints[0] == fingerprints[1] and rows[1]["mel"] < rows[0]["mel"] and rows[:2] == rows[2:]
    for wrong in ({"steps": 0}, {"lr": -1.0}, {"crop_units": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            SpeechTraining(**wrong)


def test_agreement_counts_edits():
    assert agreement(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 4])) == 1
    assert agreement(torch.tensor([1, 2, 3]), torch.tensor([1, 2, 3, 4])) == 0.75
    assert agreement(torch.tensor([5, 5]), torch.tensor([1, 2, 3, 4])) == 0


def test_phone_purity_of_perfect_mixed_and_foreign_units():
    """By hand, and against scikit-learn's mutual information."""
    phones = ["a"] * 4 + ["b"] * 4
    perfect = phone_purity(torch.tensor([0, 0, 1, 1, 2, 2, 2, 2]), phones)
    assert perfect["phone_purity"] == 1 and perfect["cluster_purity"] == 0.75
    assert abs(perfect["pnmi"] - 1) < 1e-12
    blind = phone_purity(torch.tensor([0, 1] * 4), phones)
    assert blind["phone_purity"] == blind["cluster_purity"] == 0.5 and abs(blind["pnmi"]) < 1e-12
    ids = torch.randint(0, 7, (200,), generator=torch.Generator().manual_seed(0))
    named = [f"p{(i + j) % 5}" for i, j in zip(ids.tolist(), range(200))]
    pnmi = mutual_info_score(ids.tolist(), named) / mutual_info_score(named, named)
    assert abs(phone_purity(ids, named)["pnmi"] - pnmi) < 1e-12
    with pytest.raises(InputError, match="a phone for each unit, and some; got 1 for 2"):
        phone_purity(torch.tensor([0, 1]), ["a"])
