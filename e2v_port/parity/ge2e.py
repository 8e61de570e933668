"""Resemblyzer's VoiceEncoder, run stage by stage."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import Waveform
from e2v_port.checkpoints.checkpoint import Checkpoint
from e2v_port.errors import RuntimeUnavailable
from e2v_port.parity.references import Tolerances
from e2v_port.quiet import quiet

__all__ = ["REFERENCE", "Resemblyzer"]

LEVEL, EPSILON = 0.1, 1e-10  # root mean square that a clip is brought to, and what keeps silence finite


class Resemblyzer:
    """Resemblyzer's own spectrogram, network and mean of excerpts, with its weights read by itself, on the CPU.

    Only the loudness is that of this package: Resemblyzer leaves it to the caller.

    Args:
        checkpoint: The checkpoint.

    Raises:
        RuntimeUnavailable: Resemblyzer, or something it needs, cannot be imported.
    """

    library: ClassVar[str] = "Resemblyzer"
    # Measured on speech with the published weights: spectrogram 5e-6 of values up to 18, layers 2e-6, embeddings 5e-7.
    tolerances: ClassVar[Tolerances] = Tolerances(hidden=2e-5, share=2e-6, stages={"frames": 5e-6, "pooled": 5e-6})

    def __init__(self, checkpoint: Checkpoint) -> None:
        with quiet():
            try:
                from resemblyzer import VoiceEncoder, audio
            except ImportError as error:
                raise RuntimeUnavailable(
                    f"Resemblyzer cannot run ({error}): pip install Resemblyzer webrtcvad-wheels"
                ) from error
            self.encoder = VoiceEncoder("cpu", verbose=False, weights_fpath=checkpoint.weights)
        self.spectrogram = audio.wav_to_mel_spectrogram

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip; see `Reference`."""
        import torch

        centered = waveform.astype(np.float64) - waveform.mean(dtype=np.float64)
        normalized = (centered / np.sqrt(np.square(centered).mean() + EPSILON)).astype(np.float32)
        clip = np.float32(LEVEL) * normalized
        with quiet():
            embedding, excerpts, spans = self.encoder.embed_utterance(clip, return_partials=True)
            padded = np.pad(clip, (0, max(spans[-1].stop - len(clip), 0)))
            mel = self.spectrogram(padded)
            _, columns = self.encoder.compute_partial_slices(len(clip), 1.3, 0.75)
        found = {"waveform": normalized, "spectrogram": mel[: columns[-1].stop]}
        batch = torch.from_numpy(np.stack([mel[span] for span in columns]))
        whole = self.encoder.lstm
        for i in range(whole.num_layers):
            layers = torch.nn.LSTM(whole.input_size, whole.hidden_size, i + 1, batch_first=True)
            state = whole.state_dict()
            layers.load_state_dict({name: state[name] for name in layers.state_dict()})
            with torch.inference_mode():
                found[f"layers.{i}"] = layers(batch)[0].numpy()
        return found | {"frames": excerpts, "pooled": embedding}


REFERENCE = Resemblyzer
