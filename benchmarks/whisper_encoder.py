"""Measures the speed of Whisper's encoder next to the libraries that have it, with the same weights and clips.

    python benchmarks/whisper_encoder.py build/weights/whisper-base [--audio FOLDER] [--seconds 120] [--rounds 3]

`make weights` fetches these weights. Each contender embeds a list of files, decoding and spectrogram included: the mean
over the encoder's frames. e2v-port runs them in batches, the others one by one, as their users do, either as they are
or, as all but e2v-port do by default, filled up with zeros to 30 s. Every contender has a process of its own, so that
no pool of threads waits for another, and one works at a time: they take turns, in an order that is reversed each round.
openai-whisper and CTranslate2 take part where they are installed.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

import e2v_port
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.whisper import positions
from e2v_port.bench import clips, machine, timing
from e2v_port.quiet import quiet

Embeddings = list[NDArray[np.float32]]
Contender = Callable[[Path, Path, bool], Callable[[list[str]], Embeddings]]

FRAMES = 1500  # of 30 s
# Name of a part in openai-whisper and in transformers, by its name in model.safetensors.
BLOCK = {
    "attn.q_proj": ("attn.query", "self_attn.q_proj"),
    "attn.k_proj": ("attn.key", "self_attn.k_proj"),
    "attn.v_proj": ("attn.value", "self_attn.v_proj"),
    "attn.out_proj": ("attn.out", "self_attn.out_proj"),
    "norm1": ("attn_ln", "self_attn_layer_norm"),
    "mlp.fc1": ("mlp.0", "fc1"),
    "mlp.fc2": ("mlp.2", "fc2"),
    "norm2": ("mlp_ln", "final_layer_norm"),
}


def e2v(dtype: str) -> Contender:
    """Returns e2v-port with a type."""

    def make(converted: Path, _checkpoint: Path, _pad: bool) -> Callable[[list[str]], Embeddings]:
        model = e2v_port.load(converted, runtime="cpu", dtype=dtype)
        return lambda paths: list(model.embed(tuple(paths)))

    return make


def transformers(converted: Path, _checkpoint: Path, pad: bool) -> Callable[[list[str]], Embeddings]:
    """transformers, in float32."""
    import torch
    from torch.nn.functional import gelu

    with quiet():
        library: Any = import_module("transformers")
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        sizes, state = weights(converted, library=1)
        names = ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins")
        encoder: Any = WhisperEncoder(library.WhisperConfig(**dict(zip(names, sizes, strict=True))))
        encoder.eval()
        extract: Any = library.WhisperFeatureExtractor(feature_size=sizes[-1])
    encoder.load_state_dict(state | {"embed_positions.weight": torch.from_numpy(positions(FRAMES, sizes[0]))})

    def run(features: Any) -> Any:
        if pad:
            return encoder(features)[0]
        x = gelu(encoder.conv2(gelu(encoder.conv1(features)))).mT  # its forward() refuses clips of other lengths
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        for layer in encoder.layers:
            x = layer(x, None)
        return encoder.layer_norm(x)

    def answer(paths: list[str]) -> Embeddings:
        with torch.inference_mode():
            return [
                run(torch.from_numpy(features))[0].mean(0).numpy() for features in spectrograms(extract, paths, pad)
            ]

    return answer


def openai(converted: Path, _checkpoint: Path, _pad: bool) -> Callable[[list[str]], Embeddings]:
    """openai-whisper, in float32, with its own spectrogram."""
    import torch
    from whisper.audio import log_mel_spectrogram, pad_or_trim
    from whisper.model import AudioEncoder

    (width, depth, heads, _, bands), state = weights(converted, library=0)
    encoder = AudioEncoder(bands, FRAMES, width, heads, depth).eval()
    encoder.load_state_dict(state | {"positional_embedding": torch.from_numpy(positions(FRAMES, width))})

    def answer(paths: list[str]) -> Embeddings:
        found = []
        for path in paths:
            samples, _ = soundfile.read(path, dtype="float32")
            with torch.inference_mode():
                features = log_mel_spectrogram(pad_or_trim(torch.from_numpy(samples)), n_mels=bands)
                found.append(encoder(features[None])[0].mean(0).numpy())
        return found

    return answer


def ctranslate2(compute_type: str) -> Contender:
    """Returns CTranslate2 with a type, after transformers' spectrogram."""

    def make(converted: Path, checkpoint: Path, pad: bool) -> Callable[[list[str]], Embeddings]:
        from ctranslate2 import StorageView
        from ctranslate2.models import Whisper

        with quiet():
            library: Any = import_module("transformers")
            extract: Any = library.WhisperFeatureExtractor(feature_size=weights(converted, library=0)[0][-1])
        threads = int(os.environ["OMP_NUM_THREADS"])
        model = Whisper(str(checkpoint), device="cpu", compute_type=compute_type, intra_threads=threads)

        def answer(paths: list[str]) -> Embeddings:
            return [
                np.array(model.encode(StorageView.from_array(np.ascontiguousarray(features))))[0].mean(0)
                for features in spectrograms(extract, paths, pad)
            ]

        return answer

    return make


def weights(converted: Path, library: int) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Returns width, blocks, heads, width of the MLP and bands; and the tensors in the words of another library."""
    from safetensors.torch import load_file

    config: Any = ModelConfig.read(converted).architecture
    state: dict[str, Any] = {}
    for name, tensor in load_file(converted / "model.safetensors").items():
        part, _, kind = name.rpartition(".")
        first, _, rest = part.partition(".")
        if first == "blocks":
            i, _, inside = rest.partition(".")
            state[f"{('blocks', 'layers')[library]}.{i}.{BLOCK[inside][library]}.{kind}"] = tensor
        elif first == "conv_layers":
            state[f"conv{int(rest) + 1}.{kind}"] = tensor.mT if kind == "weight" else tensor
        else:
            state[f"{('ln_post', 'layer_norm')[library]}.{kind}"] = tensor
    return (config.width, config.depth, config.num_heads, config.ffn_dim, config.bands), state


def spectrograms(extract: Any, paths: list[str], pad: bool) -> Iterator[NDArray[np.float32]]:
    """Yields the features [1, bands, columns] of each file."""
    for path in paths:
        samples, rate = soundfile.read(path, dtype="float32")
        padding = "max_length" if pad else False
        yield extract(samples, sampling_rate=rate, padding=padding, return_tensors="np")["input_features"]


CONTENDERS: dict[str, tuple[Contender, bool, str]] = {  # made by, padded, needs
    "e2v-port, auto": (e2v("auto"), False, "torch"),
    "e2v-port, float32": (e2v("float32"), False, "torch"),
    "transformers": (transformers, False, "transformers"),
    "transformers, 30 s": (transformers, True, "transformers"),
    "openai-whisper, 30 s": (openai, True, "whisper"),
    "CTranslate2": (ctranslate2("float32"), False, "ctranslate2"),
    "CTranslate2, 30 s": (ctranslate2("float32"), True, "ctranslate2"),
    "CTranslate2, int8": (ctranslate2("int8"), False, "ctranslate2"),
}


def serve(name: str, converted: Path, checkpoint: Path, paths: list[str], pipe: Connection) -> None:
    """Embeds the clips each time something arrives, and answers with the embeddings; the body of a process."""
    make, pad, _ = CONTENDERS[name]
    answer = make(converted, checkpoint, pad)
    while pipe.recv():
        pipe.send(answer(paths))


def main() -> None:
    """Converts the weights, lets the contenders take turns and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder with weights of Whisper in the form of CTranslate2")
    parser.add_argument("--audio", type=Path, help="recordings to cut clips from; by default the project's own speech")
    parser.add_argument("--seconds", type=float, default=120, help="total length of the clips, of 1 to 15 s each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # before the processes start
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:  # /tmp may be memory
        folder = Path(name)
        paths, about = clips.cut(folder, arguments.seconds, arguments.audio)
        converted = e2v_port.convert(arguments.checkpoint, out=folder / "model")
        seconds, embeddings = measure(converted, arguments.checkpoint, paths, arguments.rounds)
    libraries = ("torch", "transformers", "openai-whisper", "ctranslate2")
    installed = ", ".join(f"{each} {version(each)}" for each in libraries if find_spec(MODULES.get(each, each)))
    processor = machine.describe("cpu")["processor"]
    print(
        f"{date.today()}, {processor}, {arguments.threads} threads, Python "
        f"{platform.python_version()}, {installed}\n\n{about['clips']} clips of {about['shortest']:.1f} to "
        f"{about['longest']:.1f} s, {about['seconds']:.0f} s in total, from {about['source']}; "
        f"median of {arguments.rounds} rounds\n\n"
        "| encoder | audio s per s | x transformers | x transformers, 30 s | largest difference |\n"
        "|---|---|---|---|---|"
    )
    for name, spent in seconds.items():
        compared = "transformers, 30 s" if CONTENDERS[name][1] else "transformers"
        off = max(np.abs(a - b).max() for a, b in zip(embeddings[name], embeddings[compared], strict=True))
        ratios = [timing.ratio(spent, seconds[other]) for other in ("transformers", "transformers, 30 s")]
        rate = about["seconds"] / statistics.median(spent)
        print(f"| {name} | {rate:.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {off:.1e} |")


MODULES = {"openai-whisper": "whisper"}


def measure(
    converted: Path, checkpoint: Path, paths: list[str], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Embeddings]]:
    """Returns the seconds of each round and the embeddings, by contender."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name, (_, _, module) in CONTENDERS.items():
        if find_spec(module):
            pipes[name], end = context.Pipe()
            context.Process(target=serve, args=(name, converted, checkpoint, paths, end), daemon=True).start()
            end.close()

    def task(pipe: Connection) -> Callable[[], Embeddings]:
        def run() -> Embeddings:
            pipe.send(True)
            found: Embeddings = pipe.recv()
            return found

        return run

    tasks = {name: task(pipe) for name, pipe in pipes.items()}
    embeddings = {name: run() for name, run in tasks.items()}  # loads and warms each up
    seconds = timing.take_turns(tasks, rounds)
    for pipe in pipes.values():
        pipe.send(False)  # ends its process
    return seconds, embeddings


if __name__ == "__main__":
    main()
