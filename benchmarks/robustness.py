"""What microphones, lines, rooms and other voices do to a model: the same test clips, spoilt in one way after another.

    python benchmarks/robustness.py --corpus ravdess=FOLDER --corpus nemo=FOLDER --unseen emodb=FOLDER

Every clip is spoilt by the functions that training augments with, at a fixed strength, drawn anew for each clip by a
fixed seed. The figure is the open UAR of `e2v evaluate`: of the test speakers of a corpus, of all of an unseen one.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import Generator

from e2v_port import augmentation, load
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.corpora import Utterance, chosen, read
from e2v_port.evaluation import compare

Spoil = Callable[[Waveform, Generator], Waveform]

TELEPHONE = 300.0, 3400.0  # Hz, ITU-T G.712


def conditions(voices: list[Waveform]) -> dict[str, Spoil]:
    """Returns the ways to spoil a clip; other voices are taken from `voices`."""

    def white(x: Waveform, rng: Generator) -> Waveform:
        return augmentation.add(x, rng.standard_normal(len(x)).astype(np.float32), 10.0)

    def others(x: Waveform, rng: Generator) -> Waveform:
        return augmentation.add(x, augmentation.babble(len(x), rng, voices), 10.0)

    def telephone(x: Waveform, rng: Generator) -> Waveform:
        low, high = TELEPHONE
        return augmentation.band(x, rng, (low, low), (high, high))

    return {
        "as recorded": lambda x, _: x,
        "20 dB quieter": lambda x, _: x * np.float32(0.1),
        "a telephone's band": telephone,
        "a room, 0.5 s, echo as strong as the voice": lambda x, rng: augmentation.room(x, rng, (0.5, 0.5), (0.0, 0.0)),
        "white noise 10 dB below": white,
        "other voices 10 dB below": others,
        "2 s cut out of it": lambda x, rng: augmentation.crop(x, rng, (2.0, 2.0)) if len(x) > 2 * SAMPLING_RATE else x,
    }


def main() -> None:
    """Prints a table: a row for each condition, a column for each corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled", help="name or folder")
    parser.add_argument("--corpus", action="append", default=[], metavar="NAME=PATH", help="its test speakers")
    parser.add_argument("--unseen", action="append", default=[], metavar="NAME=PATH", help="all its speakers")
    options = parser.parse_args()
    model = load(Path(options.model) if Path(options.model).is_dir() else options.model)
    tests: dict[str, list[Utterance]] = {}
    for specs, part in ((options.corpus, "test"), (options.unseen, "all")):
        if specs:
            tests |= {
                name: [one for one in ones if one.label in model.labels]
                for name, ones in chosen([read(spec) for spec in specs], part).items()
            }
    if not tests:
        parser.error("name a corpus with --corpus or --unseen")
    waveforms = {name: [load_audio(one.file) for one in ones] for name, ones in tests.items()}
    voices = [waveform for name in waveforms for waveform in waveforms[name][:50]]
    print(f"| {' | '.join(['', *(f'{name}, {len(ones)} clips' for name, ones in tests.items())])} |")
    print("|---|" + "---|" * len(tests))
    for condition, spoil in conditions(voices).items():
        cells = []
        for name, ones in tests.items():
            clips = [spoil(x, np.random.default_rng((7, i))) for i, x in enumerate(waveforms[name])]
            answers = model.predict(list(clips), SAMPLING_RATE)
            found = compare(ones, answers, model.labels, model=str(model), runtime=model.runtime)
            assert found.open is not None
            cells.append(str(found.open.uar))
        print(f"| {' | '.join([condition, *cells])} |", flush=True)


if __name__ == "__main__":
    main()
