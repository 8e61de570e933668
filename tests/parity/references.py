"""Models and clips that all runtimes are held against FunASR with."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from e2v_port.architectures.emotion2vec import Emotion2vecConfig
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.converters.emotion2vec import BASE, LARGE, TOKENS


@dataclass(frozen=True)
class Case:
    config: Emotion2vecConfig
    tokens: tuple[str, ...] = TOKENS
    prefix: str = "d2v_model."


OLD_TOKENS = tuple(f"unuse_{i}" if i in {1, 2, 5, 7} else token for i, token in enumerate(TOKENS))

SIX_HEADS = replace(
    BASE,
    conv_layers=((32, 10, 5), *[(32, 3, 2)] * 4, *[(32, 2, 2)] * 2),
    embed_dim=48,
    num_heads=6,
    num_alibi_heads=6,
    prenet_depth=2,
    depth=3,
    ffn_dim=96,
    conv_pos_groups=4,
)

CASES = {
    "six-heads": Case(SIX_HEADS),
    # Widths that differ from layer to layer, an even positional kernel, another epsilon, few extra tokens.
    "twelve-heads": Case(
        replace(
            SIX_HEADS,
            conv_layers=((24, 10, 5), (40, 3, 2), (32, 3, 2), (16, 3, 2), (48, 3, 2), (32, 2, 2), (20, 2, 2)),
            embed_dim=96,
            num_heads=12,
            num_alibi_heads=12,
            prenet_depth=1,
            depth=2,
            ffn_dim=288,
            conv_pos_depth=2,
            conv_pos_kernel=6,
            conv_pos_groups=16,
            num_extra_tokens=3,
            norm_eps=1e-3,
        )
    ),
    "unused-labels": Case(replace(SIX_HEADS, num_heads=8, num_alibi_heads=8, prenet_depth=1), OLD_TOKENS),
    "no-head": Case(replace(SIX_HEADS, num_labels=0, depth=1), prefix=""),
    "unnormalized": Case(replace(SIX_HEADS, normalize=False, num_heads=12, num_alibi_heads=7, depth=1)),
    "base": Case(BASE),
    "large": Case(LARGE),
}

VOICES = ("emotion2vec_test.wav", "emodb_03a04Ad.flac", "emodb_16a02Ea.flac", "librivox_idle_hour_john_clare.flac")


def _thirty_seconds(speech: list[Path]) -> Waveform:
    return np.resize(np.concatenate([load_audio(path) for path in speech]), 30 * SAMPLING_RATE)


CLIPS: dict[str, Callable[[list[Path]], Waveform]] = {
    **{f"voice-{i + 1}": (lambda speech, i=i: load_audio(speech[i])) for i in range(len(VOICES))},
    "400-samples": lambda speech: load_audio(speech[3])[8000:8400],
    "silence": lambda _: np.zeros(SAMPLING_RATE, np.float32),
    "clipped": lambda speech: np.clip(20 * load_audio(speech[1]), -1, 1),
    "very-quiet": lambda speech: 1e-4 * load_audio(speech[2]),
    "30-seconds": _thirty_seconds,
}
