"""transformers' Whisper encoder and its head for classification, run stage by stage."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import soundfile
from numpy.typing import NDArray

from e2v_port.architectures.whisper import MAX_FRAMES
from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.checkpoints.checkpoint import Checkpoint
from e2v_port.errors import AudioError, CheckpointError, RuntimeUnavailable
from e2v_port.parity.heads import Heads
from e2v_port.parity.references import Hooks, Peer, Tolerances, Vector, tensors
from e2v_port.quiet import quiet

__all__ = ["PEER", "REFERENCE", "Transformers"]

# What a user of the library writes to embed one clip.
PROGRAM = """if True:
    import json, sys
    import soundfile, torch
    from transformers import WhisperFeatureExtractor, WhisperModel
    prepare = WhisperFeatureExtractor.from_pretrained(sys.argv[1])
    model = WhisperModel.from_pretrained(sys.argv[1]).encoder.to(sys.argv[2]).eval()
    samples, rate = soundfile.read(sys.argv[3], dtype="float32")
    with torch.inference_mode():
        values = prepare(samples, sampling_rate=rate, return_tensors="pt").input_features
        print(json.dumps(model(values.to(sys.argv[2]))[0].mean(1)[0].tolist()))"""


class Transformers:
    """transformers' WhisperFeatureExtractor and WhisperEncoder, and the head, from an unconverted checkpoint's folder.

    The extractor computes in float32, as it always does, and the encoder in float64: trained weights put values of
    several hundred into a few features, from which float32 takes the last digits of the others.

    Args:
        checkpoint: The checkpoint.

    Raises:
        CheckpointError: The checkpoint is in the form of another library.
        RuntimeUnavailable: transformers cannot be imported, or no forward pass is published for the head.
    """

    library: ClassVar[str] = "transformers"
    # Beside values of 500, whisper-base loses 1.8e-5 of the largest frame in transformers' own float32, and 4.1e-5 with
    # oneDNN on a CPU with AVX-512, which adds in another order.
    tolerances: ClassVar[Tolerances] = Tolerances(share=8e-5, stages={"pooled": 2e-5})

    def __init__(self, checkpoint: Checkpoint) -> None:
        if checkpoint.config is None or checkpoint.weights.name == "model.bin":
            raise CheckpointError(
                f"{checkpoint.repository}: not in the form of transformers, with its config.json: compare the weights "
                "with those of a model that is, as in --origin openai/whisper-base"
            )
        folder = checkpoint.weights.parent
        with quiet():
            try:
                from transformers import WhisperConfig, WhisperFeatureExtractor
                from transformers.models.whisper.modeling_whisper import WhisperEncoder
            except ImportError as error:
                raise RuntimeUnavailable(
                    f"transformers cannot be imported ({error}): pip install --upgrade transformers"
                ) from error

            encoder: Any = WhisperEncoder
            extractor: Any = WhisperFeatureExtractor
            config: Any = WhisperConfig.from_pretrained(folder, local_files_only=True)
            self.model = encoder(config)
            self.prepare = extractor(feature_size=config.num_mel_bins)
        state = {name.removeprefix("model."): tensor for name, tensor in tensors(checkpoint).items()}
        self.model.load_state_dict(
            {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
        )
        self.model.eval().double()
        self.heads = Heads(state)

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip as it is, or if it has 30 s, as transformers does; see `Reference`.

        Raises:
            AudioError: The clip is longer than 30 s, which transformers cuts off.
        """
        import torch
        from torch.nn import functional

        model = self.model
        if len(waveform) > MAX_FRAMES * 320:
            raise AudioError("transformers' Whisper takes 30 s at most: choose a shorter clip")
        hooks = Hooks()
        for i, layer in enumerate((model.conv1, model.conv2)):
            hooks.keep(f"conv_layers.{i}", layer, lambda output: functional.gelu(output).mT)
        for i, block in enumerate(model.layers):
            hooks.keep(f"blocks.{i}", block, lambda output: output if isinstance(output, torch.Tensor) else output[0])
        hooks.keep_input("positions", model.layers[0], lambda inputs: inputs[0])
        found: dict[str, NDArray[np.float32]] = {"waveform": waveform}
        try:
            with torch.inference_mode():
                prepared = self.prepare(waveform, sampling_rate=SAMPLING_RATE, padding=False, return_tensors="pt")
                features = prepared["input_features"]
                found["spectrogram"] = features[0].mT.numpy().copy()
                states = self.states(features.double())
        finally:
            hooks.remove()
        found |= hooks.found
        found["frames"] = states[-1][0].float().numpy()
        return found | self.heads.stages(states)

    def states(self, features: Any) -> list[Any]:
        """Does what `WhisperEncoder.forward` does, which refuses all but 30 s.

        Args:
            features: Spectrogram [B, bands, columns] in float64.

        Returns:
            Hidden states [B, frames, width], the last of them after the final norm.
        """
        from torch.nn.functional import gelu

        model = self.model
        if features.shape[2] == 2 * MAX_FRAMES:
            return [*model(features, output_hidden_states=True).hidden_states]
        x = gelu(model.conv2(gelu(model.conv1(features)))).mT
        states = [x + model.embed_positions.weight[: x.shape[1]]]
        for layer in model.layers:
            states.append(layer(states[-1], None))
        return [*states[:-1], model.layer_norm(states[-1])]


def _transformers(checkpoint: Checkpoint, device: str) -> Callable[[list[str]], list[Vector]]:
    import torch

    reference = Transformers(checkpoint)
    reference.model.to(device).float()

    def answer(paths: list[str]) -> list[Vector]:
        answers = []
        for path in paths:
            samples, rate = soundfile.read(path, dtype="float32")
            with torch.inference_mode():
                features = reference.prepare(samples, sampling_rate=rate, return_tensors="pt")["input_features"]
                found = reference.heads.stages(reference.states(features.to(device)))
                answers.append(found.get("logits", found["pooled"]))
        return answers

    return answer


REFERENCE = Transformers
PEER = Peer(Transformers.library, PROGRAM, _transformers)
