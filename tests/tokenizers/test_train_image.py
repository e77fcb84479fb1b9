"""Training of image tokenizers: it learns, resumes to the bit, keeps its codebook alive; each term of the loss acts."""

import dataclasses
import math

import pytest
import torch

from mot_gen.errors import InputError
from mot_gen.tokenizers import image_losses, image_training, train_image
from mot_gen.tokenizers.image_losses import CodebookAverage, adaptive_weight, hinge_loss
from mot_gen.tokenizers.measure_image import codebook_use, psnr, reconstruction_report
from mot_gen.tokenizers.quantizers import NearestEntry
from mot_gen.tokenizers.train_image import ImageTrainer, ImageTraining, small_kl, small_vq

SMALL = {"image_size": 16, "fold": 2, "widths": (16, 16), "decoder_layers": 2}
FAST = ImageTraining(
    steps=30, batch_size=8, lr=3e-3, warmup_steps=3, average_decay=0.8, checkpoint_every=10, log_every=10
)


def squares(n=24):
    """Coloured rectangles on white, (n, 3, 16, 16) uint8."""
    generator = torch.Generator().manual_seed(0)
    images = torch.full((n, 3, 16, 16), 255, dtype=torch.uint8)
    for image in images:
        x, y, w, h = torch.randint(2, 8, (4,), generator=generator).tolist()
        image[:, y : y + h, x : x + w] = torch.randint(0, 256, (3, 1, 1), generator=generator).to(torch.uint8)
    return images


def make(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "kl":
            return small_kl(**SMALL)
        return small_vq(**SMALL, entries=32, levels=[5, 5, 3] if kind == "fsq" else None)


def quality(tokenizer):
    return reconstruction_report(tokenizer.eval(), squares().float() / 255)[0]["psnr"]


@pytest.mark.parametrize("kind", ["vq", "fsq", "kl"])
def test_it_learns_and_its_tokens_are_declared(kind):
    tokenizer = make(kind)
    before, rows = quality(tokenizer), []
    ImageTrainer(tokenizer, squares(), FAST).run(rows.append)
    assert quality(tokenizer) > before + 3
    assert [row["step"] for row in rows] == [10, 20, 30] and all(math.isfinite(row["reconstruction"]) for row in rows)
    span = tokenizer.encode(squares()[0])
    assert span.grid == (4, 4)
    if kind == "kl":
        values = torch.cat([s.values for s in tokenizer.encode_batch(squares())])
        assert values.mean(0).abs().max() < 1e-3 and (values.std(0) - 1).abs().max() < 1e-2
    else:
        assert tokenizer.modality.vocab_size == {"vq": 32, "fsq": 75}[kind]


def test_of_several_sizes_it_is_trained_on_the_first_and_takes_all():
    tokenizer = small_kl(**{**SMALL, "image_size": [[16, 16], [8, 24]]})
    ImageTrainer(tokenizer, squares(), dataclasses.replace(FAST, steps=2)).run()
    assert [tokenizer.encode(picture).grid for picture in (squares()[0], squares()[0][:, :4, :12])] == [(4, 4), (2, 6)]
    assert tokenizer.decode(tokenizer.encode(squares()[0][:, :4, :12])).shape[-2:] == (8, 24)


class Killed(Exception):
    pass


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_killed_and_resumed_it_is_the_same_to_the_bit(kind, tmp_path):
    few = dataclasses.replace(FAST, steps=9, checkpoint_every=3, log_every=3)
    options = dataclasses.replace(few, adversarial=0.5, adversarial_start=2)
    whole = make(kind)
    ImageTrainer(whole, squares(), options, tmp_path / "whole").run()

    def kill(row):
        if row["step"] == 6:
            raise Killed

    with pytest.raises(Killed):  # the report of step 6 comes before its checkpoint, so this resumes at 3
        ImageTrainer(make(kind), squares(), options, tmp_path / "killed").run(kill)
    resumed, rows = make(kind), []
    ImageTrainer(resumed, squares(), options, tmp_path / "killed").run(rows.append)
    assert [row["step"] for row in rows] == [6, 9]
    assert resumed.fingerprint == whole.fingerprint
    with pytest.raises(InputError, match=r"adversarial 0\.5, not 0\.0"):
        ImageTrainer(make(kind), squares(), few, tmp_path / "killed").run()
    with pytest.raises(InputError, match="other images"):
        ImageTrainer(make(kind), squares(8), options, tmp_path / "killed").run()
    file = tmp_path / "killed" / "training.pt"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a checkpoint that can be read"):
        ImageTrainer(make(kind), squares(), options, tmp_path / "killed").run()


def test_every_image_comes_once_an_epoch_and_the_order_is_the_seeds():
    trainer = ImageTrainer(make("vq"), squares(24), dataclasses.replace(FAST, augment="none"))
    epochs = [torch.cat([trainer.batch(3 * e + i) for i in range(3)]) for e in range(2)]
    original = squares(24).float() / 127.5 - 1
    for epoch in epochs:
        assert torch.equal(epoch.flatten(1).sum(1).sort().values, original.flatten(1).sum(1).sort().values)
    assert not torch.equal(*epochs)
    assert torch.equal(trainer.batch(4), trainer.batch(4))
    other = ImageTrainer(make("vq"), squares(24), dataclasses.replace(FAST, augment="none", seed=1))
    assert not torch.equal(other.batch(0), trainer.batch(0))


def test_augmentation_only_moves_pixels_and_reaches_every_symmetry():
    image = torch.arange(27.0).view(1, 3, 3, 3)
    for augment, count in (("none", 1), ("flip", 2), ("strong", 8 * 6)):
        made = image_training.augment_batch(image.expand(2000, -1, -1, -1), augment, torch.Generator().manual_seed(0))
        assert len(made.flatten(1).unique(dim=0)) == count
        assert torch.equal(made.flatten(1).sort(1).values, image.flatten(1).expand(2000, -1))
    wide = torch.rand(4, 1, 2, 6)
    assert image_training.augment_batch(wide, "strong", torch.Generator().manual_seed(0)).shape == wide.shape


def test_perceptual_and_adversarial_terms_join_when_they_are_asked_for(monkeypatch):
    seen = []

    def perceptual(images, targets):
        seen.append((images.min().item(), images.max().item(), images.requires_grad))
        return (images - targets).abs().mean()

    options = dataclasses.replace(FAST, steps=6, log_every=1, perceptual=0.5, adversarial=0.5, adversarial_start=3)
    rows = []
    ImageTrainer(make("vq"), squares(), options, perceptual=perceptual).run(rows.append)
    assert len(seen) == 6 and all(low >= -1 and high <= 1 and grad for low, high, grad in seen)
    assert ["adversarial" in row for row in rows] == [False] * 3 + [True] * 3
    assert all(row["perceptual"] > 0 for row in rows)


def test_the_adaptive_weight_makes_the_two_gradients_equally_long():
    weight = torch.randn(5, 5, requires_grad=True)
    reconstruction, adversarial = (weight @ torch.randn(5)).square().sum(), (weight * torch.randn(5, 5)).sum() * 0.01
    factor = adaptive_weight(reconstruction, adversarial, weight)
    (one,) = torch.autograd.grad(reconstruction, weight)
    (two,) = torch.autograd.grad(factor * adversarial, weight)
    assert math.isclose(one.norm().item(), two.norm().item(), rel_tol=1e-2)
    assert hinge_loss(torch.tensor([2.0, 0.0]), torch.tensor([-2.0, -1.0])).item() == pytest.approx(0.25)


def test_the_codebook_average_is_the_mean_of_what_chose_each_entry():
    torch.manual_seed(0)
    codebook = NearestEntry(4, 2)
    average = CodebookAverage(codebook, decay=0.0)
    vectors = torch.randn(400, 2)
    ids = torch.arange(400) % 4
    average.update(vectors, ids)
    for i in range(4):
        assert torch.allclose(codebook.embedding.weight[i], vectors[ids == i].mean(0), atol=1e-5)


def test_dead_entries_move_to_vectors_that_are_badly_served():
    torch.manual_seed(0)
    codebook = NearestEntry(8, 2)
    with torch.no_grad():
        codebook.embedding.weight[:] = torch.tensor([50.0, 50.0])
        codebook.embedding.weight[0] = 0.0
    vectors = torch.cat([torch.zeros(1000, 2), torch.randn(40, 2) * 0.1 + torch.tensor([5.0, 0.0])])
    average = CodebookAverage(codebook, decay=0.9)
    for _ in range(20):
        average.update(vectors, codebook.ids(vectors))
    error = (vectors - codebook.entries(codebook.ids(vectors))).norm(dim=-1)
    assert error.max() < 0.3  # the forty in the corner have entries of their own
    assert codebook_use(codebook.ids(vectors), 8)["codebook_use"] > 0.25


def test_the_measures_against_closed_forms():
    images = torch.zeros(3, 1, 16, 16)
    assert torch.allclose(psnr(images + 0.1, images), torch.full((3,), 20.0))
    assert psnr(images, images).tolist() == [100.0] * 3
    use = codebook_use(torch.tensor([[0, 1], [2, 3]]), 8)
    assert use["codebook_use"] == 0.5 and use["codebook_perplexity"] == pytest.approx(4)
    assert codebook_use(torch.zeros(9, dtype=torch.int64), 8)["codebook_perplexity"] == pytest.approx(1)


def test_a_batch_without_a_finite_gradient_changes_nothing_and_many_stop_it():
    trainer = ImageTrainer(make("vq"), squares(), FAST, perceptual=lambda images, targets: images.sum() * math.nan)
    trainer.options = dataclasses.replace(FAST, steps=100, perceptual=1.0)
    before = trainer.tokenizer.fingerprint
    with pytest.raises(InputError, match="no finite gradient"):
        trainer.run()
    assert trainer.tokenizer.fingerprint == before and trainer.step == train_image.MAX_SKIPPED


def test_options_are_checked():
    for wrong in ({"steps": 0}, {"lr": -1.0}, {"batch_size": 0}, {"precision": "fp8"}, {"augment": "flop"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            ImageTraining(**wrong)
    rates = [FAST.lr_at(step) for step in range(FAST.steps)]
    assert max(rates) <= FAST.lr and rates[0] == pytest.approx(FAST.lr / 3) and rates[-1] < 0.02 * FAST.lr


def test_lpips_without_its_weights_says_what_is_missing(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(InputError, match="LPIPS needs torchvision's weights of alex"):
        image_losses.lpips()
