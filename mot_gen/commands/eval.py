"""The `eval` command: `register(subparsers)` adds it to the mot-gen command line.

    mot-gen eval images REAL FAKE --metrics fd,kd,pr    mot-gen eval text FILE.jsonl    mot-gen eval stats DIR -o REF
    mot-gen eval speech FILE.jsonl                      mot-gen eval image-text FILE    mot-gen eval geneval FILE
    mot-gen eval suite geneval PROMPTS IMAGES
    mot-gen eval images REAL CHECKPOINT                 mot-gen eval text PAIRS --checkpoint CHECKPOINT

Nothing heavy is imported until a command runs.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from mot_gen.checkpoints import locate
from mot_gen.commands.early import refuse_missing
from mot_gen.commands.options import writable_file
from mot_gen.commands.without_torch import refuse_early
from mot_gen.pipelines.settings import PictureSettings

# Arguments that are files or folders, if given.
READ = (
    *("real", "fake", "file", "source", "prompts", "detections", "weights", "held_out", "lpips"),
    *("clip", "pickscore", "hpsv2", "mauve", "bertscore", "speaker", "mos", "colors"),
)


def register(subparsers) -> argparse.ArgumentParser:
    """Adds `eval` to an argparse subparsers object; each command sets `func`, which takes the arguments, returns 0."""
    parser = subparsers.add_parser("eval", help="measure images, text and speech; numbers that others can reproduce")
    commands = parser.add_subparsers(dest="eval_command", required=True, metavar="COMMAND")
    _add_images(commands)
    _add_stats(commands)
    _add_text(commands)
    _add_speech(commands)
    _add_image_text(commands)
    _add_geneval(commands)
    _add_suite(commands)
    return parser


def lazily(target: str) -> Callable[[argparse.Namespace], int]:
    """A function by "module:name", imported when it is called. Files that the command reads are looked for before, so
    that a wrong path is refused at once."""
    module, name = target.split(":")

    def call(args: argparse.Namespace) -> int:
        refuse_missing(getattr(args, field, None) for field in READ)
        return getattr(importlib.import_module(module), name)(args)

    return call


def _add_images(commands):
    parser = commands.add_parser("images", help="real images or reference statistics against generated images")
    parser.add_argument("real", help="folder, .npz, .npy, .parquet or .jsonl of images, or a file of `eval stats`")
    fake = "the same, generated; or a checkpoint, shipped ones by name, from which samples are drawn and kept"
    parser.add_argument("fake", type=locate, help=fake)
    parser.add_argument(
        "--metrics",
        default="fd,kd,pr",
        help="of fd, kd, cmmd, pr, fdinf, vendi, memorization, is; and of pairs: psnr, ssim, lpips (default: fd,kd,pr)",
    )
    parser.add_argument("--lpips", metavar="FILE", help="torchvision's AlexNet weights, for lpips without its extra")
    parser.add_argument("--held-out", metavar="IMAGES", help="real images that were not trained on, for memorization")
    parser.add_argument("--splits", type=int, default=10, help="parts of the Inception Score")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random")
    _add_checkpoint(parser)
    parser.add_argument("--prompts", metavar="FILE", help="of a checkpoint: .txt or .jsonl (default: REAL's captions)")
    parser.add_argument("--num", type=int, metavar="N", help="of a checkpoint: pictures (default: one a prompt)")
    parser.add_argument("--num-inference-steps", type=int, metavar="N", help="of a checkpoint (default: its own)")
    parser.add_argument("--guidance-scale", type=float, metavar="G", help="of a checkpoint (default: its own)")
    _add_extractor(parser)
    _add_output(parser)
    parser.set_defaults(func=_images)


def _images(args: argparse.Namespace) -> int:
    from mot_gen.eval.by_name import OF_IMAGES, chosen_names
    from mot_gen.eval.images.extractor_names import check_extractor

    chosen_names(args.metrics, OF_IMAGES, "metrics")
    check_extractor(args.extractor)
    refuse_missing([args.real, args.lpips, args.weights])
    checks = [lambda: _eval_images().check_extractor(args), lambda: _eval_images().check_lpips(args)]
    if is_checkpoint(args.fake):
        settings = PictureSettings(num_inference_steps=args.num_inference_steps, guidance_scale=args.guidance_scale)
        refuse_early(*checks)

        from mot_gen.reports.kept_samples import SampleRequest, draw_images
        from mot_gen.reports.prompts import prompts_of

        order = SampleRequest(args.fake, args.seed, args.batch_size, args.samples, settings)
        args.fake = str(draw_images(order, prompts_of(args.prompts, args.real), args.num))
    else:
        refuse_missing([args.fake])
        refuse_early(lambda: _eval_images().check_sides(args), *checks)
    return lazily("mot_gen.commands.eval_images:images")(args)


def _eval_images() -> ModuleType:
    """Imports it, and torch with it."""
    return importlib.import_module("mot_gen.commands.eval_images")


def _text(args: argparse.Namespace) -> int:
    if args.checkpoint:
        from mot_gen.checkpoints import find

        find(args.checkpoint)
        from mot_gen.reports.kept_samples import SampleRequest, write_captions
        from mot_gen.reports.prompts import pairs_of

        args.file = str(write_captions(SampleRequest(args.checkpoint, folder=args.samples), pairs_of(args.file)))
    return lazily("mot_gen.commands.eval_text:text")(args)


def is_checkpoint(path: str) -> bool:
    """Whether a path is a run's folder or its `model/` folder."""
    return any((Path(path) / name).exists() for name in ("model_index.json", "model/model_index.json", "checkpoints"))


def _add_checkpoint(parser: argparse.ArgumentParser):
    parser.add_argument("--samples", metavar="DIR", help="where a checkpoint's samples are kept (default: the cache)")


def _add_stats(commands):
    parser = commands.add_parser("stats", help="reference statistics of a set of images, as a file with a fingerprint")
    parser.add_argument("source", help="folder, .npz, .npy, .parquet or .jsonl of images")
    parser.add_argument("-o", "--out", type=writable_file, required=True, metavar="FILE", help="the .npz to write")
    _add_extractor(parser)
    parser.add_argument(
        "--json", type=writable_file, metavar="FILE", help="what was written, as JSON; - for standard output"
    )
    parser.set_defaults(func=_stats)


def _stats(args: argparse.Namespace) -> int:
    from mot_gen.eval.images.extractor_names import check_extractor

    check_extractor(args.extractor)
    refuse_missing([args.source, args.weights])
    refuse_early(lambda: _eval_images().check_source(args), lambda: _eval_images().check_extractor(args))
    return lazily("mot_gen.commands.eval_images:stats")(args)


def _add_text(commands):
    parser = commands.add_parser("text", help="predictions against references")
    parser.add_argument("file", help='one object a line: {"id", "prediction", "references": [...]}')
    parser.add_argument(
        "--checkpoint", metavar="DIR", help="writes the predictions; FILE then is pictures with captions"
    )
    _add_checkpoint(parser)
    parser.add_argument(
        "--metrics", default="bleu,chrf,ter,rouge", help="names, by comma (default: bleu,chrf,ter,rouge)"
    )
    parser.add_argument("--tokenize", default="13a", help="sacrebleu's tokenizer for BLEU: 13a, zh, char, intl, ...")
    parser.add_argument("--rouge-tokenize", default="latin", choices=("latin", "unicode"), help="words of ROUGE")
    parser.add_argument("--lowercase", action="store_true", help="ignore case in BLEU and chrF; TER always does")
    parser.add_argument("--mauve", metavar="FOLDER", help="a transformers language model, for mauve")
    parser.add_argument("--bertscore", metavar="FOLDER", help="a transformers model, for bertscore")
    parser.add_argument("--bertscore-layer", type=int, metavar="L", help="of its hidden states (default: the last)")
    _add_output(parser)
    parser.set_defaults(func=_text)


def _add_speech(commands):
    parser = commands.add_parser("speech", help="transcripts, units or recordings against references")
    parser.add_argument(
        "file", help='{"id", "prediction", "references": [one]}, or "prediction_audio", "reference_audio"'
    )
    parser.add_argument(
        "--metrics", default="wer,cer", help="of wer, cer, mer, wil, uer, mcd, fad, speaker, mos (default: wer,cer)"
    )
    parser.add_argument("--speaker", metavar="FOLDER", help="a transformers model of x-vectors, for speaker")
    parser.add_argument("--mos", metavar="FOLDER", help="a transformers audio classifier of one label, for mos")
    _add_output(parser)
    parser.set_defaults(func=lazily("mot_gen.commands.eval_text:speech"))


def _add_image_text(commands):
    parser = commands.add_parser("image-text", help="how well images show what their texts say")
    parser.add_argument("file", help='one object a line: {"image": file, "text", "references"?: [...]}')
    parser.add_argument(
        "--metrics", default="clip", help="of clip, refclip, r_precision, pickscore, hpsv2, vqa, ocr (default: clip)"
    )
    parser.add_argument("--clip", metavar="FOLDER", help="a CLIP and its processor, as transformers saves them")
    parser.add_argument("--pickscore", metavar="FOLDER", help="PickScore's CLIP")
    parser.add_argument("--hpsv2", metavar="FOLDER", help="HPSv2's CLIP")
    parser.add_argument("--vqa", metavar="MODEL", help="a transformers image-to-text model, or module:function")
    parser.add_argument("--device", default="cpu", help="where CLIP runs (default: cpu)")
    _add_output(parser)
    parser.set_defaults(func=lazily("mot_gen.commands.eval_text:image_text"))


def _add_geneval(commands):
    parser = commands.add_parser("geneval", help="GenEval's rules over a file of detections")
    parser.add_argument("file", help='one object a line: {"tag", "include", "exclude", "detections"}')
    parser.add_argument("--detector", default="unstated", help="what made the detections, for the signature")
    _add_output(parser)
    parser.set_defaults(func=lazily("mot_gen.commands.eval_text:geneval"))


def _add_suite(commands):
    parser = commands.add_parser("suite", help="GenEval, DPG-Bench and T2I-CompBench from prompts to a table")
    parser.add_argument(
        "suite", choices=("geneval", "dpg", "compbench"), metavar="NAME", help="geneval, dpg, compbench"
    )
    parser.add_argument("prompts", help="the benchmark's own file of prompts")
    images = "pictures, equally many a prompt; or a checkpoint, shipped ones by name, that draws them"
    parser.add_argument("images", type=locate, nargs="?", help=images)
    parser.add_argument("--detector", metavar="NAME", help="a folder of transformers, or module:function")
    parser.add_argument(
        "--detections", metavar="FILE", help='of geneval: {"detections": [...]} a line, a line a picture'
    )
    parser.add_argument("--colors", metavar="FOLDER", help="of geneval: a CLIP that names the colours of what is seen")
    parser.add_argument("--vqa", metavar="MODEL", help="a transformers image-to-text model, or module:function")
    parser.add_argument("--clip", metavar="FOLDER", help="of compbench non_spatial: a CLIP")
    parser.add_argument("--category", help="of compbench: color, shape, texture, spatial, non_spatial")
    parser.add_argument("--images-a-prompt", type=int, default=4, metavar="N", help="of a checkpoint (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of a checkpoint's pictures")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="pictures at a time (default: 64)")
    _add_checkpoint(parser)
    _add_output(parser)
    parser.set_defaults(func=_suite)


def _suite(args: argparse.Namespace) -> int:
    refuse_missing([args.prompts, args.detections, args.clip, args.colors])
    refuse_early(lambda: importlib.import_module("mot_gen.commands.eval_suites").check(args))
    return lazily("mot_gen.commands.eval_suites:suite")(args)


def _add_extractor(parser: argparse.ArgumentParser):
    group = parser.add_argument_group("features")
    group.add_argument(
        "--extractor",
        default="efficientnet-lite0",
        help="fid-inception, dinov2, torchvision:NAME, transformers:FOLDER, MODULE:NAME (default: efficientnet-lite0)",
    )
    group.add_argument("--weights", metavar="FILE", help="local weights of the extractor")
    group.add_argument("--download", action="store_true", help="fetch the weights of fid-inception, hash-checked")
    group.add_argument("--resize", choices=("tf1", "clean", "antialias", "crop"), help="default: the extractor's own")
    group.add_argument(
        "--as-stored", action="store_true", help="neither turn pictures by EXIF nor lay transparency on white"
    )
    group.add_argument("--dtype", choices=("float32", "tf32", "bfloat16"), help="of the network (default: float32)")
    group.add_argument("--device", default="cpu", help="where the extractor runs (default: cpu)")
    group.add_argument("--batch-size", type=int, default=64, metavar="N", help="pictures at a time (default: 64)")
    group.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), metavar="N", help="decoding threads")
    group.add_argument("--cache", metavar="DIR", help="where features are kept (default: the user's cache folder)")
    group.add_argument("--no-cache", action="store_true", help="keep no features")
    group.add_argument("--max-unreadable", type=int, default=10, metavar="N", help="files that may be left out (10)")


def _add_output(parser: argparse.ArgumentParser):
    group = parser.add_argument_group("results")
    group.add_argument("--confidence", type=float, metavar="C", help="also give intervals, such as 0.95")
    group.add_argument(
        "--json",
        type=writable_file,
        metavar="FILE",
        help="write results as JSON; - for standard output in place of the table",
    )
    page = "write a page with samples, neighbours and worst cases"
    group.add_argument("--html", type=writable_file, metavar="FILE", help=page)
