"""The eval command, end to end in one process: sources, caches, reports, and every kind of bad input."""

import argparse
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sacrebleu
import soundfile
import torch
from PIL import Image
from torch import nn

from mot_gen.commands.eval import register
from mot_gen.errors import InputError
from mot_gen.eval.images import extraction
from mot_gen.eval.images.evaluate_texts import evaluate_image_text
from mot_gen.eval.images.frechet import frechet_compute
from mot_gen.eval.images.moments import moments_of
from mot_gen.eval.images.nearest import nearest_neighbours, worst_cases
from mot_gen.eval.images.sources import open_images


class Thumbnail(nn.Module):
    """The 12 means of a 2 x 2 grid: an extractor that costs nothing."""

    def forward(self, x):
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


EXTRACTOR = ("--extractor", f"{__name__}:Thumbnail")


def call(*words):
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers(dest="command", required=True))
    args = parser.parse_args(["eval", *map(str, words)])
    return args.func(args)


def told(path):
    return json.loads(path.read_text(encoding="utf-8"))


def pictures(n, seed, size=(12, 16)):
    return torch.randint(0, 256, (n, *size, 3), generator=torch.Generator().manual_seed(seed)).to(torch.uint8).numpy()


def folder(path, arrays):
    path.mkdir(parents=True, exist_ok=True)
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(path / f"{i:03d}.png")
    return path


@pytest.fixture
def two(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder(tmp_path / "real", pictures(40, 0)), folder(tmp_path / "fake", pictures(30, 1))


def features(arrays):
    return Thumbnail()(torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255)


def test_images_to_json_table_and_page(two, tmp_path, capsys):
    out, page = tmp_path / "r.json", tmp_path / "r.html"
    words = ("images", *two, "--metrics", "fd,kd,pr,cmmd,fdinf,is", "--splits", 5, *EXTRACTOR)
    assert call(*words, "--json", out, "--html", page) == 0
    metrics = told(out)["metrics"]
    names = {"fd", "kd", "cmmd", "precision", "recall", "density", "coverage", "fdinf", "is"}
    assert metrics.keys() == names
    expected = frechet_compute(moments_of(features(pictures(40, 0))), moments_of(features(pictures(30, 1))))
    assert metrics["fd"]["value"] == pytest.approx(expected, rel=1e-6)
    assert metrics["fd"]["n"] == {"real": 40, "fake": 30} and "sha256:" in metrics["fd"]["signature"]
    shown = capsys.readouterr()
    assert "FD[" in shown.out and "warning: " in shown.err
    html = page.read_text(encoding="utf-8")
    assert html.count("<img") > 100 and "Worst cases" in html and "://" not in html


def test_json_on_standard_output_is_only_json(two, capsys):
    call("images", *two, "--metrics", "kd", *EXTRACTOR, "--json", "-")
    assert json.loads(capsys.readouterr().out)["metrics"]["kd"]["n"] == {"real": 40, "fake": 30}


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(two, tmp_path, capsys):
    for option in ("--json", "--html"):
        with pytest.raises(SystemExit):
            call("images", *two, *EXTRACTOR, option, two[0])
        assert f"argument {option}: {two[0]} is a folder; give a file" in capsys.readouterr().err


def test_as_stored_stands_in_results_and_binds_statistics(two, tmp_path):
    ref, out = tmp_path / "ref.npz", tmp_path / "r.json"
    call("images", *two, "--metrics", "kd", *EXTRACTOR, "--json", out, "--as-stored")
    assert "pictures:as-stored" in told(out)["metrics"]["kd"]["signature"]
    call("stats", two[0], "-o", ref, *EXTRACTOR, "--as-stored")
    with pytest.raises(InputError, match="computed with pictures 'as-stored', but 'upright, on white' is in use"):
        call("images", ref, two[1], "--metrics", "fd", *EXTRACTOR)
    call("images", ref, two[1], "--metrics", "fd", *EXTRACTOR, "--as-stored", "--json", out)


def test_one_source_in_four_forms(two, tmp_path):
    arrays = pictures(30, 1)
    np.savez(tmp_path / "a.npz", images=arrays)
    np.save(tmp_path / "a.npy", arrays.astype(np.float32) / 255)
    files = [{"bytes": (two[1] / f"{i:03d}.png").read_bytes(), "path": None} for i in range(30)]
    pq.write_table(pa.table({"image": files}), tmp_path / "a.parquet")
    for key in ("image", "file_name"):
        rows = "".join(json.dumps({key: f"fake/{i:03d}.png"}) + "\n" for i in range(30))
        (tmp_path / f"{key}.jsonl").write_text(rows)
    for name in ("fake", "a.npz", "a.npy", "a.parquet", "image.jsonl", "file_name.jsonl"):
        source = open_images(tmp_path / name)
        assert np.array_equal(torch.stack([source.read(i) for i in range(30)]).permute(0, 2, 3, 1).numpy(), arrays)


def test_statistics_stand_in_for_real_images_and_are_refused_for_others(two, tmp_path):
    ref, out = tmp_path / "ref", tmp_path / "r.json"
    assert call("stats", two[0], "-o", ref, *EXTRACTOR, "--json", tmp_path / "s.json") == 0
    call("images", ref, two[1], "--metrics", "fd", *EXTRACTOR, "--json", out)
    by_file = told(out)["metrics"]["fd"]
    call("images", *two, "--metrics", "fd", *EXTRACTOR, "--json", out)
    assert by_file["value"] == pytest.approx(told(out)["metrics"]["fd"]["value"], rel=1e-9)
    assert by_file["provenance"]["reference"] == told(tmp_path / "s.json")["fingerprint"]
    with pytest.raises(InputError, match="is in use"):
        call("images", ref, two[1], "--metrics", "fd", *EXTRACTOR, "--dtype", "bfloat16")
    with pytest.raises(InputError, match="give the images"):
        call("images", ref, two[1], "--metrics", "fd,kd", *EXTRACTOR)
    with pytest.raises(InputError, match="fake: statistics stand in for real images only"):
        call("images", two[0], ref, "--metrics", "fd", *EXTRACTOR)


def test_features_are_cached_and_a_cut_run_goes_on(two, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "SHARD", 8)
    seen = []
    original = extraction.features_of

    def counted(images, extractor):
        seen.append(len(images))
        if sum(seen) > 20:
            raise KeyboardInterrupt
        return original(images, extractor)

    monkeypatch.setattr(extraction, "features_of", counted)
    words = ("images", *two, "--metrics", "fd", *EXTRACTOR, "--json", tmp_path / "r.json")
    with pytest.raises(KeyboardInterrupt):
        call(*words)
    monkeypatch.setattr(
        extraction, "features_of", lambda images, extractor: seen.append(0) or original(images, extractor)
    )
    call(*words)
    assert seen.count(0) == 3 + 4  # 2 of the 5 real shards of 8 were there already; 4 fake ones
    before = len(seen)
    call(*words)
    assert len(seen) == before
    Image.fromarray(pictures(1, 9)[0]).save(two[1] / "000.png")
    call(*words)
    assert len(seen) == before + 4


def test_unreadable_files_are_counted_named_and_capped(two, tmp_path):
    (two[1] / "005.png").write_bytes(b"not a picture")
    call("images", *two, "--metrics", "fd", *EXTRACTOR, "--json", tmp_path / "r.json")
    for _ in range(2):  # and again from the cache
        found = told(tmp_path / "r.json")
        assert found["metrics"]["fd"]["n"]["fake"] == 29 and "005.png" in found["unreadable"][0]
        assert any("1 images could not be read" in line for line in found["metrics"]["fd"]["warnings"])
        call("images", *two, "--metrics", "fd", *EXTRACTOR, "--json", tmp_path / "r.json")
    call("images", *two, "--metrics", "is", "--splits", 15, *EXTRACTOR, "--json", tmp_path / "r.json")
    assert told(tmp_path / "r.json")["metrics"]["is"]["provenance"]["splits"] == 14  # of the 29 that can be read
    (two[1] / "006.png").write_bytes(b"")
    with pytest.raises(InputError, match="over 1 images cannot be read"):
        call("images", *two, "--metrics", "fd", *EXTRACTOR, "--no-cache", "--max-unreadable", 1)


def test_mixed_sizes_are_resized_one_by_one(two):
    Image.fromarray(pictures(1, 5, (40, 9))[0]).save(two[1] / "zzz.png")
    call("images", *two, "--metrics", "kd", *EXTRACTOR)
    extractor = extraction.Extraction(extraction.Extractor(Thumbnail(), "t", 8))
    ((mixed, numbers),) = extraction.extract_shards(open_images(two[1]), extractor)
    assert mixed.shape == (31, 12) and numbers == list(range(31))


def test_features_of_as_many_numbers_as_pixels_need_pictures_of_one_size(two):
    Image.fromarray(pictures(1, 5, (40, 9))[0]).save(two[1] / "zzz.png")
    with pytest.raises(InputError, match=r"pictures have 576 and 1080 features; bring them to one size first"):
        call("images", *two, "--metrics", "kd", "--extractor", "pixels", "--no-cache")


def test_pairs_are_matched_by_name(two, tmp_path):
    same = folder(tmp_path / "same", pictures(40, 0) ^ 1)
    call("images", two[0], same, "--metrics", "psnr,ssim", "--json", tmp_path / "r.json")
    assert told(tmp_path / "r.json")["metrics"]["psnr"]["value"] == pytest.approx(20 * np.log10(255), rel=1e-9)
    with pytest.raises(InputError, match="pairs need both"):
        call("images", *two, "--metrics", "psnr")


def test_bad_sources_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.txt").write_text("x")
    np.savez(tmp_path / "features.npz", other=np.zeros((3, 4)))
    for name, says in (("empty", "holds no images"), ("gone", "no such file"), ("x.txt", "give one of these")):
        with pytest.raises(InputError, match=says):
            open_images(tmp_path / name)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="is one picture; give a folder of them"):
        open_images(tmp_path / "a.png")
    with pytest.raises(InputError, match="has no array named"):
        open_images(tmp_path / "features.npz")
    with pytest.raises(InputError, match=r"extractor os:getcwd: gives a str; it must give an nn\.Module"):
        call("images", tmp_path, tmp_path, "--metrics", "kd", "--extractor", "os:getcwd", "--no-cache")
    with pytest.raises(InputError, match="did you mean 'fdinf'"):
        call("images", tmp_path / "empty", tmp_path / "empty", "--metrics", "fdinff")


def test_one_image_is_not_a_set(tmp_path):
    one = folder(tmp_path / "one", pictures(1, 0))
    with pytest.raises(InputError, match="N = 1"):
        call("images", one, one, "--metrics", "fd", *EXTRACTOR, "--no-cache")


LINES = [
    {"id": "a", "prediction": "the cat sat on the mat", "references": ["a cat sat on the mat", "the cat is here"]},
    {"id": "b", "prediction": "", "references": ["nothing was said"]},
    {"id": "c", "prediction": "猫が座った", "references": ["猫がいた"]},
]


def jsonl(path, lines):
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n\n" for line in lines), encoding="utf-8")
    return path


def test_text_end_to_end(tmp_path):
    file, out, page = jsonl(tmp_path / "p.jsonl", LINES), tmp_path / "r.json", tmp_path / "r.html"
    names = "bleu,chrf,chrf++,ter,rouge,cider,cider-d,exact_match,token_f1,distinct_1,distinct_2,self_bleu"
    assert call("text", file, "--metrics", names, "--json", out, "--html", page, "--confidence", 0.9) == 0
    metrics = told(out)["metrics"]
    streams = [[line["references"][0] for line in LINES], ["the cat is here", None, None]]
    expected = sacrebleu.corpus_bleu([line["prediction"] for line in LINES], streams).score
    assert metrics["bleu"]["value"] == pytest.approx(expected, rel=1e-12)
    assert metrics["bleu"]["interval"][0] <= expected <= metrics["bleu"]["interval"][1]
    assert {"rouge1", "rouge2", "rougeL", "cider-d", "self_bleu"} <= metrics.keys()
    assert "Worst cases by chrf" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "holds no records"),
        ('{"prediction": "a"}\n', "p.jsonl:1: field 'references' is absent"),
        ('{"prediction": "a", "references": []}\n', "p.jsonl:1: field 'references' is absent or empty"),
        ('\n{"references": ["a"]}\n', "p.jsonl:2: field 'prediction' is absent"),
        ('{"prediction": 3, "references": ["a"]}\n', "field 'prediction' is int, and must be a text"),
        ("{\n", "p.jsonl:1: not JSON"),
        ("[1]\n", "p.jsonl:1: a list where an object belongs"),
    ],
)
def test_bad_predictions_are_named_by_line(tmp_path, content, says):
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(InputError, match=says):
        call("text", tmp_path / "p.jsonl", "--json", tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()


def test_speech_end_to_end(tmp_path):
    g = torch.Generator().manual_seed(0)
    lines = []
    for i in range(3):
        for side in ("made", "real"):
            soundfile.write(tmp_path / f"{side}{i}.wav", (torch.rand(44100, generator=g) - 0.5).numpy(), 22050)
        lines.append(
            {
                "prediction": "one two",
                "references": ["one two three"],
                "prediction_audio": f"made{i}.wav",
                "reference_audio": f"real{i}.wav",
            }
        )
    out = tmp_path / "r.json"
    call("speech", jsonl(tmp_path / "p.jsonl", lines), "--metrics", "wer,cer,mer,wil,mcd,fad", "--json", out)
    metrics = told(out)["metrics"]
    assert metrics["wer"]["value"] == pytest.approx(1 / 3) and metrics["cer"]["value"] == pytest.approx(6 / 13)
    assert metrics["mcd"]["value"] > 0 and metrics["fad"]["name"] == "FAD[log-mel]"
    units = jsonl(tmp_path / "u.jsonl", [{"prediction": [1, 2], "references": [[1, 3]]}])
    call("speech", units, "--metrics", "uer", "--json", out)
    assert told(out)["metrics"]["uer"]["value"] == 0.5
    with pytest.raises(InputError, match=r"u.jsonl:1: field 'prediction_audio' is absent"):
        call("speech", units, "--metrics", "mcd")


def test_geneval_and_image_text_commands(tmp_path, two):
    record = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "detections": []}
    out = tmp_path / "r.json"
    call("geneval", jsonl(tmp_path / "d.jsonl", [record]), "--json", out, "--detector", "mine")
    assert (
        told(out)["metrics"]["geneval"]["value"] == 0
        and "detector:mine" in told(out)["metrics"]["geneval"]["signature"]
    )
    with pytest.raises(InputError, match="clip: no model given; name the folder"):
        call("image-text", jsonl(tmp_path / "i.jsonl", [{"image": "real/000.png", "text": "a"}]))


def test_neighbours_against_a_full_distance_matrix():
    g = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(30, 5, generator=g), torch.randn(50, 5, generator=g)
    full = torch.cdist(queries.double(), keys.double())
    indices, distances = nearest_neighbours(queries, keys, 3)
    assert torch.equal(indices, full.topk(3, largest=False).indices)
    assert torch.allclose(distances, full.sort(1).values[:, :3])
    assert worst_cases(queries, keys, 2) == full.amin(1).topk(2).indices.tolist()


@pytest.mark.parametrize("device", ["gpu", "cpu:x", "cuda:99"])
def test_a_device_that_is_not_here_is_one_line(two, device):
    with pytest.raises(InputError, match=f"device: .?{device}.? is not .*; give cpu, or"):
        call("images", *two, *EXTRACTOR, "--device", device)
    with pytest.raises(InputError, match=f"device: .?{device}.? is not "):
        evaluate_image_text(two[0], ["a"] * 40, clip="none/there", device=device)
