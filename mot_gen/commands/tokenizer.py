"""mot-gen tokenizer train | encode | decode | evaluate: `register` adds them to the command line.

What they do is in tokenizer_training, tokenizer_tokens and tokenizer_measures.
"""

from __future__ import annotations

import argparse
import importlib
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from mot_gen.checkpoints import locate
from mot_gen.commands.early import refuse_missing, refuse_unwritable
from mot_gen.commands.options import settings, writable_file
from mot_gen.commands.without_torch import refuse_early
from mot_gen.errors import require
from mot_gen.eval.images.extractor_names import check_extractor
from mot_gen.files.hub import require_local
from mot_gen.recipes.signatures import stated_types
from mot_gen.tokenizers.saved import home_of

KINDS = ("text", "vq", "scales", "kl", "speech")
# The fields of each kind's training, for --set.
TRAINING = {
    "vq": ("mot_gen.tokenizers.image_training", "VQTraining"),
    "scales": ("mot_gen.tokenizers.image_training", "VQTraining"),
    "kl": ("mot_gen.tokenizers.image_training", "ImageTraining"),
    "speech": ("mot_gen.tokenizers.train_speech_units", "SpeechTraining"),
}
PICTURES = ("vq", "scales", "kl")
# The options of `train` that are for some kinds alone.
ACTS_ON = {
    "vocab_size": ("text",),
    **dict.fromkeys(("image_size", "color_channels", "fold", "widths", "variants", "extractor"), PICTURES),
    "entries": ("vq", "scales"),
    "scales": ("scales",),
    "levels": ("vq",),
    "latent_channels": ("kl",),
    **dict.fromkeys(("units", "context", "collapse", "encoder", "layer"), ("speech",)),
}
SHIPPED = ("emoji", "spoken-digits")  # data that comes with the package or its extras


def register(subparsers) -> None:
    """Add the command `tokenizer`; each of its own commands sets func(args) -> exit code."""
    parser = subparsers.add_parser("tokenizer", help="train, run and measure tokenizers")
    commands = parser.add_subparsers(dest="tokenizer_command", required=True)
    _train_arguments(commands.add_parser("train", help="train a tokenizer of text, images or speech"))
    encode = commands.add_parser("encode", help="texts, pictures or recordings to tokens (jsonl)")
    _folder_argument(encode)
    encode.add_argument("inputs", nargs="+", metavar="FILE", help="pictures or recordings, folders of them; text files")
    encode.add_argument("--out", type=writable_file, required=True, metavar="JSONL", help="where the tokens go")
    encode.add_argument("--max-skipped", type=int, default=20, metavar="N", help="inputs that may fail; default: 20")
    encode.set_defaults(func=_encode)
    decode = commands.add_parser("decode", help="tokens (jsonl) to pictures, recordings or a text file")
    _folder_argument(decode)
    decode.add_argument("tokens", type=Path, metavar="JSONL", help="a file that encode wrote")
    decode.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="folder of pictures or recordings, or text file"
    )
    decode.set_defaults(func=_decode)
    evaluate = commands.add_parser("evaluate", help="what of pictures or recordings a tokenizer keeps")
    _folder_argument(evaluate)
    evaluate.add_argument("--data", required=True, help="a folder, or emoji or spoken-digits (held-out part)")
    evaluate.add_argument(
        "--held-out", action="store_true", help="only the tenth of the folder that training holds out, by file names"
    )
    evaluate.add_argument(
        "--extractor", metavar="NAME", help="also the reconstruction Frechet distance in its features"
    )
    evaluate.add_argument("--recognizer", metavar="NAME", help="speech: sphinx, or a model of transformers")
    evaluate.add_argument("--json", type=writable_file, metavar="FILE", help="write the figures there too")
    evaluate.set_defaults(func=_evaluate)


def _folder_argument(parser: argparse.ArgumentParser) -> None:
    help = "of the tokenizer, or a shipped one: openmoji/image_tokenizer"
    parser.add_argument("tokenizer", type=locate, metavar="FOLDER", help=help)


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=KINDS, help="what it makes tokens of, and how")
    parser.add_argument(
        "--data",
        required=True,
        metavar="PATH",
        help="text: files, comma separated; else a folder, emoji or spoken-digits",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder: the tokenizer, its checkpoint, report.json"
    )
    parser.add_argument("--vocab-size", type=int, default=4096, metavar="N", help="text: tokens; default: 4096")
    _image_arguments(parser)
    _speech_arguments(parser)
    fields: dict[str, Any] = {"nargs": "+", "action": "extend", "default": [], "metavar": "KEY=VALUE"}
    parser.add_argument("--set", **fields, help="fields of its training, as in steps=4000 lr=0.001")
    parser.set_defaults(func=_train, usual={name: parser.get_default(name) for name in ACTS_ON})


def _image_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image-size", type=int, default=32, metavar="N", help="pixels a side; default: 32")
    parser.add_argument("--color-channels", type=int, choices=(1, 3), default=3, help="1 is grey; default: 3")
    parser.add_argument("--entries", type=int, default=1024, metavar="N", help="vq, scales: size of the codebook")
    parser.add_argument(
        "--scales",
        type=_integers,
        default=[1, 2, 3, 4, 6, 8],
        metavar="N,...",
        help="scales: sides, from coarse to fine",
    )
    parser.add_argument(
        "--levels", type=_integers, metavar="N,...", help="vq: finite scalar quantisation instead, as in 8,5,5,5"
    )
    parser.add_argument(
        "--latent-channels", type=int, default=8, metavar="N", help="kl: channels of a latent; default: 8"
    )
    parser.add_argument("--fold", type=int, default=4, metavar="N", help="pixels a side that the network sees as one")
    parser.add_argument(
        "--widths", type=_integers, default=[128], metavar="N,...", help="channels at each resolution, as in 64,128"
    )
    parser.add_argument(
        "--variants", type=int, default=8, metavar="N", help="emoji: more drawings of each, moved, turned and scaled"
    )
    parser.add_argument(
        "--extractor", metavar="NAME", help="also report the reconstruction Frechet distance in its features"
    )


def _speech_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--units", type=int, default=500, metavar="N", help="speech: clusters")
    parser.add_argument(
        "--context", type=int, default=1, metavar="N", help="speech: log-mel frames on either side of a unit's four"
    )
    parser.add_argument("--collapse", action="store_true", help="speech: write a unit once however long it lasts")
    parser.add_argument("--encoder", metavar="FOLDER", help="speech: HuBERT, wav2vec2 or WavLM instead of log-mels")
    parser.add_argument("--layer", type=int, default=-1, metavar="N", help="speech: of the encoder; -1 is the last")


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _train(args: argparse.Namespace) -> int:
    if args.data not in SHIPPED:
        paths = args.data.split(",") if args.kind == "text" else [args.data]
        refuse_missing(paths)
    refuse_missing([args.encoder])
    _refuse_idle(args)
    refuse_unwritable(args.out)
    if args.kind in TRAINING:
        types = stated_types(*TRAINING[args.kind]) or {}
        settings(args.set, {name: kind if isinstance(kind, type) else str for name, kind in types.items()})

    refuse_early(lambda: _training_of(args).check())
    return _report(_training_of(args).train(), args.out / "report.json")


def _refuse_idle(args: argparse.Namespace) -> None:
    """InputError for an option that was given and does nothing for this kind."""
    for name, kinds in ACTS_ON.items():
        idle = args.kind not in kinds and getattr(args, name) != args.usual[name]
        flag = "--" + name.replace("_", "-")
        require(not idle, f"{flag} does not act on {args.kind}; it is for {', '.join(kinds)}")
    if args.encoder:
        require(args.context == args.usual["context"], "--context is for log-mels; leave it out, or --encoder")
    else:
        require(args.layer == args.usual["layer"], "--layer is one of an encoder's; give --encoder, or leave it out")


def _training_of(args: argparse.Namespace) -> Any:
    """The training that the command states; imports torch."""
    from mot_gen.commands import tokenizer_training as training

    kinds: dict[str, Any] = {"text": training.Text, "speech": training.Speech}
    kind = kinds.get(args.kind, training.Images)
    fields = {name: value for name, value in vars(args).items() if name in kind.__dataclass_fields__}
    return kind(**fields, training=args.set)


def _evaluate(args: argparse.Namespace) -> int:
    home_of(args.tokenizer)
    if args.extractor:
        check_extractor(args.extractor)
    if args.recognizer not in (None, "sphinx"):
        require_local("--recognizer", args.recognizer)
    if args.data not in SHIPPED:
        refuse_missing([args.data])
        refuse_early(lambda: _check_data(args.data, args.tokenizer))

    from mot_gen.commands.tokenizer_measures import measures

    return _report(measures(args.tokenizer, args.data, args.held_out, args.extractor, args.recognizer), args.json)


def _check_data(data: str, tokenizer: str) -> None:
    """InputError where a tokenizer's data hold no pictures, or no recordings."""
    from mot_gen.tokenizers.image_corpus import find_images
    from mot_gen.tokenizers.speech_corpus import find_recordings

    module, _ = home_of(tokenizer)
    if module.startswith("image"):
        find_images(Path(data))
    elif module.startswith("speech"):
        find_recordings(Path(data))


def _module_of(folder: str) -> str:
    """The module of a tokenizer that reads and writes files; InputError for plain numbers, which no file holds."""
    module, _ = home_of(folder)
    said = f"{folder}: plain numbers stand in records, and training encodes them; give a tokenizer of files"
    require(module != "vector", said)
    return module


def _encode(args: argparse.Namespace) -> int:
    _module_of(args.tokenizer)
    refuse_missing(args.inputs)
    folders = [path for path in args.inputs if Path(path).is_dir()]
    if folders:
        refuse_early(*(partial(_check_data, folder, args.tokenizer) for folder in folders))

    _tokens().encode(args.tokenizer, args.inputs, args.out, args.max_skipped)
    print(args.out)
    return 0


def _decode(args: argparse.Namespace) -> int:
    is_text = _module_of(args.tokenizer) == "text"
    refuse_missing([args.tokens])
    refuse_unwritable(args.out.parent if is_text else args.out)
    refuse_early(lambda: _tokens().rows_of(args.tokens))

    _tokens().decode(args.tokenizer, args.tokens, args.out)
    print(args.out)
    return 0


def _tokens() -> ModuleType:
    """Imports it, and torch with it."""
    return importlib.import_module("mot_gen.commands.tokenizer_tokens")


def _report(found: dict[str, Any], file: str | None) -> int:
    """Print what was found, and write it where a file is asked for."""
    import json

    from mot_gen.files.atomic import write_json

    print(json.dumps(found, indent=2))
    if file is not None:
        write_json(file, found)
    return 0
