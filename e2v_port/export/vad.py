"""Exports silero's voice activity detector to ONNX: one file whose state the caller keeps between calls."""

from pathlib import Path

import numpy as np

from e2v_port import seam
from e2v_port.audio import SAMPLING_RATE
from e2v_port.errors import E2VError
from e2v_port.export.onnx_folder import OPSET, TOLERANCES, check_request
from e2v_port.files import replacing
from e2v_port.parity.verify import test_clip
from e2v_port.speech.silero import FRAME_SAMPLES, read_weights, speech_probabilities
from e2v_port.version import __version__

__all__ = ["export_vad"]

LARGEST = TOLERANCES["float32"]  # difference of a probability from `speech_probabilities`


def export_vad(out: str | Path, *, opset: int = OPSET) -> float:
    """Writes silero's network for 16 kHz as one file, after checking that it computes what `e2v_port.speech` does.

    The graph takes `waveform` [batch, samples] in float32 at 16 kHz, `state` [2, batch, 128] and `context` [batch, 64],
    both zero at the start of a recording. It returns `probabilities` [batch, frames], one for each 512 samples, and
    `next_state` and `next_context` for the samples that follow.

    Args:
        out: File to write; one that is already there is replaced.
        opset: Version of ONNX's operators, 18 to 23.

    Returns:
        Largest difference between the probabilities of a test clip.

    Raises:
        E2VError: The libraries are missing, or the result differs by more than 5e-5.
        OSError: The file cannot be written.
    """
    check_request("float32", opset)
    metadata = {
        "license": "MIT",
        "source": "snakers4/silero-vad",
        "sampling_rate": str(SAMPLING_RATE),
        "samples_per_frame": str(FRAME_SAMPLES),
        "converter": f"e2v-port {__version__}",
    }
    with replacing(Path(out)) as path:
        seam.write_vad(path, read_weights(), opset=opset, metadata=metadata)
        difference = _compare(path)
        if not difference <= LARGEST:
            raise E2VError(
                f"silero in ONNX differs from this package's results by {difference:.1e}, more than {LARGEST:g}; "
                f"nothing was written: report this as a fault"
            )
    return difference


def _compare(path: Path) -> float:
    """Runs a clip in two parts and returns the largest difference from its own probabilities in one."""
    from onnxruntime import InferenceSession

    clip = test_clip()
    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros((1, 64), np.float32)
    found = []
    cut = len(clip) // 2 // FRAME_SAMPLES * FRAME_SAMPLES
    for part in (clip[:cut], clip[cut:]):
        feeds = {"waveform": part[None], "state": state, "context": context}
        probabilities, state, context = session.run(["probabilities", "next_state", "next_context"], feeds)
        found.append(probabilities[0])
    return float(np.abs(np.concatenate(found) - speech_probabilities(clip)).max())
