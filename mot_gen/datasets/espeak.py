"""espeak-ng in a process of its own, standard library alone: `python espeak.py LIBRARY DATA`, driven by spoken.py.

Reads lines of JSON, {"text", "voice", "speed", "pitch", "pitch_range"}; writes for each a line of JSON, {"rate",
"bytes", "phones", "error"}, and then so many bytes of 16-bit samples, native order. phones: [name, its first sample] of
each, "" for silence. espeak-ng keeps random and rhythmic state in
globals, so that the same phrase differs each time; here each phrase is spoken by a fork of the one fresh process.
"""

import ctypes
import json
import os
import sys

_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: samples go to the callback before espeak_Synth returns
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER
_UTF8 = 1  # espeakCHARS_UTF8
_PHONES = 1  # espeakINITIALIZE_PHONEME_EVENTS
_LAST, _PHONE = 0, 7  # espeak_EVENT_TYPE


class _Event(ctypes.Structure):
    """espeak_EVENT; `name` is the member of its union that holds a phoneme."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def _phones(events) -> list[tuple[str, int]]:
    """Name and first sample of the phonemes among the events of a chunk."""
    found, number = [], 0
    while events[number].type != _LAST:
        if events[number].type == _PHONE:
            found.append((events[number].name.decode(errors="replace"), events[number].sample))
        number += 1
    return found


def say(library, request: dict) -> tuple[bytes, list, str]:
    """The samples of a request, its phones, and what went wrong, or ""."""
    chunks, phones = [], []

    @_Callback
    def collect(samples, count, events):
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        phones.extend(_phones(events))
        return 0

    library.espeak_SetSynthCallback(collect)
    if library.espeak_SetVoiceByName(request["voice"].encode()):
        return b"", [], "voice"
    for parameter, field in ((_RATE, "speed"), (_PITCH, "pitch"), (_RANGE, "pitch_range")):
        library.espeak_SetParameter(parameter, request[field], 0)
    text = request["text"].encode()
    failed = library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, _UTF8, None, None)
    data = b"".join(chunks)
    return (data, phones, "") if any(data) and not failed else (b"", [], "text")


def answer(library, rate: int, request: dict) -> None:
    """Write what a fork says to standard output."""
    fork = os.fork()
    if not fork:
        data, phones, error = say(library, request)
        header = json.dumps({"rate": rate, "bytes": len(data), "phones": phones, "error": error})
        sys.stdout.buffer.write(header.encode() + b"\n" + data)
        sys.stdout.buffer.flush()
        os._exit(0)
    os.waitpid(fork, 0)


def main(path: str, data: str) -> None:
    """Speak what comes on standard input, a JSON object a line. path: of the library. data: of its voices."""
    library = ctypes.CDLL(path)
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, os.path.dirname(data).encode(), _PHONES)
    if rate <= 0:
        sys.exit(f"{data}: espeak-ng cannot read its voices here")
    library.espeak_ng_SetRandSeed(ctypes.c_long(0))  # else the time is the seed
    for line in sys.stdin.buffer:
        answer(library, rate, json.loads(line))


if __name__ == "__main__":
    main(*sys.argv[1:])
