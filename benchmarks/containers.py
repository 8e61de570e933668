"""Which files are read, and right: every container, codec, rate and number of channels that can be made here.

    python benchmarks/containers.py [--list]

Makes each kind of file from the same speech with soundfile and PyAV, decodes it with e2v_port, and compares length and
content with the speech. A file is `equal` if its content lies at its place (at the codec's delay, where the container
has no field for it), its length differs by no more than the codec's frames, and nothing is noted; `refused` if it ends
in an AudioError; `wrong` otherwise.
"""

import argparse
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.errors import AudioError

SPEECH = Path(__file__).parent / "speech" / "calm.flac"
RATES = (8_000, 16_000, 22_050, 44_100, 48_000)
# By soundfile.
STORED = {
    "WAV": (
        "PCM_U8",
        "PCM_16",
        "PCM_24",
        "PCM_32",
        "FLOAT",
        "DOUBLE",
        "ULAW",
        "ALAW",
        "IMA_ADPCM",
        "MS_ADPCM",
        "GSM610",
    ),
    "WAVEX": ("PCM_16", "FLOAT"),
    "RF64": ("PCM_16", "PCM_24", "FLOAT"),
    "W64": ("PCM_16", "FLOAT", "ULAW"),
    "AIFF": ("PCM_S8", "PCM_16", "PCM_24", "FLOAT", "ULAW", "ALAW"),
    "AU": ("PCM_16", "PCM_24", "FLOAT", "ULAW", "ALAW"),
    "CAF": ("PCM_16", "PCM_24", "FLOAT", "ALAC_16", "ULAW"),
    "FLAC": ("PCM_S8", "PCM_16", "PCM_24"),
    "OGG": ("VORBIS", "OPUS"),
    "MP3": ("MPEG_LAYER_III",),
    "NIST": ("PCM_16", "ULAW"),
    "VOC": ("PCM_16",),
    "IRCAM": ("PCM_16",),
    "PVF": ("PCM_16",),
    "HTK": ("PCM_16",),
    "MAT5": ("PCM_16",),
}
# By PyAV: muxer, and encoders that it takes.
ENCODED = {
    "mp4": ("aac", "alac", "libopus", "flac", "ac3", "libmp3lame"),
    "ipod": ("aac", "alac"),
    "mov": ("aac", "pcm_s16le", "pcm_s24be", "adpcm_ima_qt", "alac", "pcm_mulaw"),
    "3gp": ("aac", "libopencore_amrnb"),
    "amr": ("libopencore_amrnb",),
    "adts": ("aac",),
    "webm": ("libopus", "vorbis"),
    "matroska": ("aac", "libopus", "vorbis", "flac", "pcm_s16le", "libmp3lame", "ac3", "alac", "wavpack"),
    "ogg": ("libopus", "vorbis", "flac"),
    "asf": ("wmav1", "wmav2"),
    "flv": ("aac", "libmp3lame"),
    "avi": ("libmp3lame", "pcm_s16le", "ac3"),
    "mpegts": ("aac", "mp2", "ac3"),
    "wav": ("adpcm_ima_wav", "adpcm_ms", "g722", "libmp3lame", "pcm_s16le"),
    "mp2": ("mp2",),
    "mp3": ("libmp3lame",),
    "wv": ("wavpack",),
    "caf": ("pcm_s16be", "alac"),
}
# Milliseconds that content may come late, beyond 0.1: the encoder's delay where no field of the container has it, and
# the filters of the codec.
DELAYS = {"aac": 130.0, "mp2": 61.0, "libmp3lame": 140.0, "wmav1": 260.0, "wmav2": 260.0, "vorbis": 3.0, "g722": 3.0}
DELAYS |= {"libopencore_amrnb": 6.0, "libopus": 6.6, "ac3": 33.0, "GSM610": 1.0}
BIT_RATES = {"libopencore_amrnb": 12_200, "wmav1": 96_000, "wmav2": 96_000}  # where the default is low, or 0
LIKENESS = {"libopencore_amrnb": 0.8}  # correlation, at least; 0.9 otherwise
LENGTH = 300.0  # ms of padding, at most


def speech(rate: int, channels: int) -> NDArray[Any]:
    """Returns the speech, [frames, channels]."""
    samples, own = soundfile.read(SPEECH)
    return np.tile(soxr.resample(samples, own, rate)[:, None] * 0.7, channels)


def encode(samples: NDArray[Any], rate: int, muxer: str, encoder: str) -> bytes:
    """Encodes samples [frames, channels] with PyAV."""
    file = io.BytesIO()
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(file, "w", format=muxer, container_options={"strict": "experimental"}) as container:
        stream: Any = container.add_stream(encoder, rate=rate, layout=layout, options={"strict": "experimental"})
        if encoder in BIT_RATES:
            stream.bit_rate = BIT_RATES[encoder]
        stream.codec_context.open()
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.format, layout, rate, frame_size=size)
        floats = np.ascontiguousarray(samples.T.astype(np.float32))
        frame = av.AudioFrame.from_ndarray(floats, "fltp", layout)
        frame.sample_rate, frame.pts = rate, 0
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return file.getvalue()


def files() -> Iterator[tuple[str, str, int, int, bytes]]:
    """Yields container, codec, rate, channels and content of every file that can be made."""
    for rate in RATES:
        for channels in 1, 2:
            samples = speech(rate, channels)
            for container, subtypes in STORED.items():
                for subtype in subtypes:
                    if container == "HTK" and 10_000_000 % rate:
                        continue  # it stores the length of a sample, in 100 ns
                    file = io.BytesIO()
                    try:
                        soundfile.write(file, samples, rate, format=container, subtype=subtype)
                    except (soundfile.LibsndfileError, ValueError):  # no such rate or number of channels
                        continue
                    yield container, subtype, rate, channels, file.getvalue()
            for muxer, encoders in ENCODED.items():
                for encoder in encoders:
                    if encoder == "libopencore_amrnb" and rate != 8_000:
                        continue  # there is no other
                    try:
                        data = encode(samples, rate, muxer, encoder)
                    except (av.FFmpegError, ValueError):  # no such rate or number of channels
                        continue
                    yield muxer, encoder, rate, channels, data


def judge(codec: str, data: bytes) -> tuple[str, str]:
    """Returns whether a file is equal, refused or wrong, and how it compares."""
    try:
        found = load_audio(io.BytesIO(data))
    except AudioError as error:
        return "refused", str(error)
    wanted = speech(SAMPLING_RATE, 1)[:, 0]
    both = len(found) + len(wanted)
    product = np.fft.irfft(np.fft.rfft(found, both) * np.conj(np.fft.rfft(wanted, both)), both)
    lag = int(product.argmax())
    lag -= both if lag > both // 2 else 0
    at = found[max(lag, 0) :], wanted[max(-lag, 0) :]
    shared = min(map(len, at))
    likeness = float(np.corrcoef(at[0][:shared], at[1][:shared])[0, 1])
    late, longer = lag * 1000 / SAMPLING_RATE, (len(found) - len(wanted)) * 1000 / SAMPLING_RATE
    right = abs(late) <= 0.1 + DELAYS.get(codec, 0.0) and abs(longer) <= LENGTH and likeness > LIKENESS.get(codec, 0.9)
    return "equal" if right else "wrong", f"{late:+.1f} ms late, {longer:+.1f} ms longer, likeness {likeness:.3f}"


def main() -> None:
    """Prints the counts, and with --list every file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="show every file, not only those that are not equal")
    listed = parser.parse_args().list
    counts: dict[str, Counter[str]] = {}
    for container, codec, rate, channels, data in files():
        verdict, how = judge(codec, data)
        counts.setdefault(container, Counter())[verdict] += 1
        if listed or verdict != "equal":
            print(f"{container:9} {codec:18} {rate:6} Hz {channels} channels: {verdict}, {how}")
    print("| container | equal | refused | wrong |\n| --- | --- | --- | --- |")
    counts["all"] = sum(counts.values(), Counter())
    for container, found in counts.items():
        print(f"| {container} | {found['equal']} | {found['refused']} | {found['wrong']} |")


if __name__ == "__main__":
    main()
