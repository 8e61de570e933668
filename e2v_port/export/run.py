"""Judges a WAV with the model.onnx beside this file: python run.py FILE.wav. Needs numpy and onnxruntime alone."""

import json
import sys
import wave
from pathlib import Path

import numpy as np


def main(name: str) -> None:  # noqa: D103 (of a program)
    import onnxruntime

    model = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"), providers=["CPUExecutionProvider"])
    about = model.get_modelmeta().custom_metadata_map
    rate, longest, labels = int(about["sampling_rate"]), float(about["longest_seconds"]), json.loads(about["labels"])
    try:
        with wave.open(name, "rb") as file:
            form, count = (file.getnchannels(), file.getsampwidth(), file.getframerate()), file.getnframes()
            data = file.readframes(min(count, int(longest * rate)))
    except (OSError, EOFError, wave.Error) as error:
        sys.exit(f"{name}: is not a WAV file of 16-bit samples: {error or 'it ends too early'}")
    if form != (1, 2, rate) or count > longest * rate:
        sys.exit(f"{name}: must be mono, with 16-bit samples at {rate} Hz, and last at most {longest:g} s")
    if len(data) < 2 * count:
        sys.exit(f"{name}: is cut off: it has fewer samples than it says")
    waveform = np.frombuffer(data, "<i2")[None] / np.float32(32768)
    values = model.run(None, {"waveform": waveform, "samples": np.array([waveform.shape[1]])})[0][0]
    if np.isnan(values).any():
        sys.exit(f"{name}: cannot be judged: it is silent or too short")
    rows = sorted(zip(values.tolist(), labels, strict=False), reverse=True)
    print("\n".join(f"{value:.3f} {label}" for value, label in rows) or values.tolist())  # or the embedding


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
