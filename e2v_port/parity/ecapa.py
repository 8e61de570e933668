"""speechbrain's Fbank and ECAPA_TDNN, run stage by stage."""

from typing import Any, ClassVar

import numpy as np
import yaml
from numpy.typing import NDArray

from e2v_port.audio import Waveform
from e2v_port.checkpoints.checkpoint import Checkpoint
from e2v_port.errors import CheckpointError, RuntimeUnavailable
from e2v_port.parity.references import Hooks, Tolerances, tensors
from e2v_port.quiet import quiet

__all__ = ["REFERENCE", "SpeechBrain"]


class _Reference(str):
    """What `!ref` refers to, such as `<n_mels>`."""


class _Loader(yaml.SafeLoader):
    """Reads an object's arguments as a table, since HyperPyYAML does not run with every ruamel.yaml."""


def _read(loader: _Loader, _tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return _Reference(node.value)


_Loader.add_multi_constructor("!", _read)


class SpeechBrain:
    """speechbrain's own features and network, built from a checkpoint's hyperparams.yaml, on the CPU.

    The embedding is that of `EncoderClassifier.encode_batch`, brought to length 1.

    Args:
        checkpoint: The checkpoint.

    Raises:
        CheckpointError: The checkpoint has no hyperparams.yaml.
        RuntimeUnavailable: speechbrain, or something it needs, cannot be imported.
    """

    library: ClassVar[str] = "speechbrain"
    # Of a spectrum, float32 leaves few digits in bands far below the loudest, which a logarithm shows.
    tolerances: ClassVar[Tolerances] = Tolerances(
        hidden=1e-4, share=1e-4, stages={"spectrogram": 2e-2, "features": 2e-2, "pooled": 5e-5}
    )

    def __init__(self, checkpoint: Checkpoint) -> None:
        if checkpoint.config is None:
            raise CheckpointError(f"{checkpoint.repository}: speechbrain needs hyperparams.yaml of the checkpoint")
        with quiet():
            try:
                from speechbrain.lobes.features import Fbank
                from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
                from speechbrain.processing.features import InputNormalization
            except ImportError as error:
                raise RuntimeUnavailable(
                    f"speechbrain cannot run ({error}): pip install speechbrain torchaudio"
                ) from error
        table = yaml.load(checkpoint.config.read_text("utf-8"), _Loader)

        def arguments(name: str) -> dict[str, Any]:
            given = table[name].items()
            return {key: table[value[1:-1]] if isinstance(value, _Reference) else value for key, value in given}

        self.features = Fbank(**arguments("compute_features")).eval()
        self.normalization = InputNormalization(**arguments("mean_var_norm")).eval()
        self.model = ECAPA_TDNN(**arguments("embedding_model")).eval()
        self.model.load_state_dict(tensors(checkpoint))

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip; see `Reference`."""
        import torch

        hooks = Hooks()
        first, *blocks = self.model.blocks
        named = {"first": first, **{f"blocks.{i}": block for i, block in enumerate(blocks)}, "frames": self.model.mfa}
        for name, module in named.items():
            hooks.keep(name, module, lambda output: output.transpose(1, 2))
        hooks.keep("statistics", self.model.asp, lambda output: output[:, :, 0])
        found: dict[str, NDArray[np.float32]] = {"waveform": waveform}
        try:
            with torch.inference_mode():
                spectrogram = self.features(torch.from_numpy(waveform)[None])
                found["spectrogram"] = spectrogram[0].numpy().copy()
                features = self.normalization(spectrogram, torch.ones(1))
                found["features"] = features[0].numpy().copy()
                embedding = self.model(features)[0, 0]
                found |= hooks.found
                found["pooled"] = (embedding / embedding.norm()).numpy()
        finally:
            hooks.remove()
        return found


REFERENCE = SpeechBrain
