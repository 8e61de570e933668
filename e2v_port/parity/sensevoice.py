"""FunASR's SenseVoiceSmall, run stage by stage."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import Waveform, load_audio
from e2v_port.checkpoints.checkpoint import Checkpoint
from e2v_port.errors import CheckpointError, RuntimeUnavailable
from e2v_port.parity.references import Hooks, Peer, Tolerances, Vector, tensors
from e2v_port.quiet import quiet

__all__ = ["PEER", "REFERENCE", "FunASR"]

EMOTIONS = range(25001, 25010)  # tokens from <|HAPPY|> to <|EMO_UNKNOWN|>
QUERIES = 4
# Of a spectrum, float32 leaves few digits in bands far below the loudest, which a logarithm shows; the features are a
# fifth of it, and those of tokens 23 times that. Measured: 4e-3, 7e-4 and 6e-3.
FRONT_END = {"spectrogram": 1e-2, "features": 2e-3, "positions": 5e-2}


class FunASR:
    """FunASR's own front end and model, built and filled by FunASR from an unconverted checkpoint, on the CPU.

    The front end adds no noise: unless config.yaml sets `dither` to 0, FunASR adds some of about one step of 16 bits to
    each window, so that its answers for a clip differ a little from one call to the next.

    Args:
        checkpoint: The checkpoint.

    Raises:
        CheckpointError: The checkpoint has no config.yaml or no am.mvn, which FunASR cannot do without.
        RuntimeUnavailable: FunASR, or something it needs, cannot be imported.
    """

    library: ClassVar[str] = "FunASR"
    tolerances: ClassVar[Tolerances] = Tolerances(share=3e-5, stages=FRONT_END)

    def __init__(self, checkpoint: Checkpoint) -> None:
        if checkpoint.config is None or checkpoint.cmvn is None:
            raise CheckpointError(f"{checkpoint.repository}: FunASR needs config.yaml and am.mvn of the checkpoint")
        import torch
        import yaml

        settings = yaml.safe_load(checkpoint.config.read_text("utf-8"))
        frontend = {**settings["frontend_conf"], "dither": 0.0, "cmvn_file": str(checkpoint.cmvn)}
        with quiet():
            try:
                from funasr.frontends.wav_frontend import WavFrontend
                from funasr.models.sense_voice.model import SenseVoiceSmall

                self.frontend = WavFrontend(**frontend)
                self.spectrogram = WavFrontend(**{**frontend, "lfr_m": 1, "lfr_n": 1, "cmvn_file": None})
                self.spectrogram(torch.zeros(1, 400), [400])  # FunASR looks for its filter banks when they are needed
            except ImportError as error:
                raise RuntimeUnavailable(
                    f"FunASR cannot run SenseVoice ({error}): pip install --upgrade funasr kaldi-native-fbank"
                ) from error

            state = tensors(checkpoint)
            state = state.get("state_dict", state)
            self.model = SenseVoiceSmall(
                encoder=settings["encoder"],
                encoder_conf=settings["encoder_conf"],
                input_size=self.frontend.output_size(),
                vocab_size=len(state["ctc.ctc_lo.bias"]),
                **settings["model_conf"],
            )
            self.model.load_state_dict(state)  # FunASR's own loader skips what does not fit
        self.model.eval().float()

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip; see `Reference`."""
        import torch

        encoder = self.model.encoder
        hooks = Hooks()
        hooks.keep_input("positions", encoder.encoders0[0], lambda inputs: inputs[0])
        stacks = {"first_blocks": encoder.encoders0, "blocks": encoder.encoders, "tp_blocks": encoder.tp_encoders}
        for name, blocks in stacks.items():
            for i, block in enumerate(blocks):
                hooks.keep(f"{name}.{i}", block, lambda output: output[0])
        hooks.keep("after_norm", encoder.after_norm)
        hooks.keep("tp_norm", encoder.tp_norm)
        found: dict[str, NDArray[np.float32]] = {"waveform": waveform}
        clip = torch.from_numpy(waveform)[None], [len(waveform)]
        try:
            with torch.inference_mode():
                found["spectrogram"] = self.spectrogram(*clip)[0][0].numpy()
                features, lengths = self.frontend(*clip)
                found["features"] = features[0].numpy().copy()
                states = self.encode(features, lengths)
                found |= hooks.found
                found["pooled"] = states[0, :QUERIES].flatten().numpy()
                found["logits"] = self.model.ctc.ctc_lo(states)[0, 1, EMOTIONS].numpy()
        finally:
            hooks.remove()
        return found

    def encode(self, features: Any, lengths: Any) -> Any:
        """Does what `SenseVoiceSmall.inference` does between the front end and the scores of the vocabulary.

        Args:
            features: Features of clips [B, frames, inputs].
            lengths: Frames of each clip, [B].

        Returns:
            States of the four queries and the frames, [B, 4 + frames, width].
        """
        import torch

        model = self.model
        rows = [model.lid_dict["auto"], 1, 2, model.textnorm_dict["woitn"]]
        queries = model.embed(torch.tensor([rows], device=features.device)).repeat(len(features), 1, 1)
        return model.encoder(torch.cat([queries, features], 1), lengths + QUERIES)[0]


def _funasr(checkpoint: Checkpoint, device: str) -> Callable[[list[str]], list[Vector]]:
    """Runs FunASR's front end and model as its `inference` does, whose text needs a tokenizer besides the weights."""
    import torch

    reference = FunASR(checkpoint)
    model = reference.model.to(device)

    def answer(paths: list[str]) -> list[Vector]:
        answers = []
        for path in paths:
            waveform = load_audio(path)
            with torch.inference_mode():
                features, lengths = reference.frontend(torch.from_numpy(waveform)[None], [len(waveform)])
                scores = model.ctc.log_softmax(reference.encode(features.to(device), lengths.to(device)))
            answers.append(torch.softmax(scores[0, 1, EMOTIONS], 0).cpu().numpy())
        return answers

    return answer


REFERENCE = FunASR
PEER = Peer(FunASR.library, "", _funasr)
