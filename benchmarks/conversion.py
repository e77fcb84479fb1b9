"""Memory and time of a published model's conversion, there and back, and of generation by it: the process's own memory
beside the file's size.

A Llama of bf16 in shards of half a gigabyte stands for the published model; its numbers are random. Memory is the peak
of RssAnon, which leaves out the pages of mapped files: those are the system's to drop. `generate` writes four tokens,
with all weights in memory, with layers on the disk, and with weights in 8 bits.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

GIGABYTES = 2.0
LAYER = 4 * 2048 * 2048 + 3 * 2048 * 5504 + 2 * 2048  # parameters of a layer of the model below


def make(folder: Path, gigabytes: float = GIGABYTES) -> int:
    """A Llama of about this size; its bytes."""
    import torch
    import transformers
    from safetensors.torch import save_file

    from mot_gen.families.shared.random_weights import byte_tokenizer

    layers = round(gigabytes * 1e9 / 2 / LAYER)
    config = transformers.LlamaConfig(
        vocab_size=4096, hidden_size=2048, intermediate_size=5504, num_hidden_layers=layers, num_attention_heads=16,
        num_key_value_heads=16, bos_token_id=0, eos_token_id=0, dtype="bfloat16",
    )  # fmt: skip
    config.save_pretrained(folder)
    byte_tokenizer(["<|endoftext|>"]).save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: x.shape for name, x in transformers.LlamaForCausalLM(config).state_dict().items()}
    shards, size, total = [{}], 0, 0
    for name, shape in shapes.items():
        if size > 5e8:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += 2 * shape.numel()
        total += 2 * shape.numel()
    weight_map = {}
    for number, shard in enumerate(shards):
        file = f"model-{number:05d}.safetensors"
        save_file({name: _random(shape) for name, shape in shard.items()}, folder / file)
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def _random(shape):
    import torch

    return (0.02 * torch.randn(shape, dtype=torch.bfloat16)).add_(len(shape) == 1)  # norms about 1


def watched(command: list[str]) -> tuple[float, float]:
    """Seconds that a command takes, and the most bytes of its own memory."""
    most, started = 0, time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            for line in status.splitlines():
                if line.startswith("RssAnon"):
                    most = max(most, 1024 * int(line.split()[1]))

    thread = threading.Thread(target=watch)
    thread.start()
    code = process.wait()
    done.set()
    thread.join()
    if code:
        raise RuntimeError(f"{' '.join(command)}: exit status {code}")
    return time.monotonic() - started, most


def run():
    """One result for each way."""
    with tempfile.TemporaryDirectory() as folder:
        source, out, back = (Path(folder) / name for name in ("source", "out", "back"))
        size = make(source)
        convert = [sys.executable, "-m", "mot_gen", "convert"]
        generate = [sys.executable, "-m", "mot_gen", "generate", str(out), "--to", "text", "--prompt", "a boat"]
        generate += ["--max-new-tokens", "4"]
        ways = {
            "there": [*convert, str(source), str(out), "--towers", "text"],
            "back": [*convert, str(out), str(back), "--like", str(source)],
            "generate, in memory, bf16": [*generate, "--dtype", "bf16"],
            "generate, on the disk, bf16": [*generate, "--dtype", "bf16", "--weights", "disk"],
            "generate, in 8 bits": [*generate, "--weights", "int8"],
        }
        for way, command in ways.items():
            seconds, memory = watched(command)
            yield {"way": way, "file_bytes": size, "own_bytes": memory, "share": memory / size, "seconds": seconds}
