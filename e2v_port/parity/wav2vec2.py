"""transformers' wav2vec2, HuBERT and WavLM, run stage by stage, with the heads of its classes and of model cards."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import soundfile
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.checkpoints.checkpoint import Checkpoint
from e2v_port.errors import CheckpointError, RuntimeUnavailable
from e2v_port.parity import speechbrain
from e2v_port.parity.heads import Heads
from e2v_port.parity.references import Hooks, Peer, Tolerances, Vector, tensors
from e2v_port.quiet import quiet

__all__ = ["PEER", "REFERENCE", "Transformers"]


# What a user of the library writes to judge one clip.
PROGRAM = """if True:
    import json, sys
    import soundfile, torch
    from transformers import AutoModel, Wav2Vec2FeatureExtractor
    prepare = Wav2Vec2FeatureExtractor.from_pretrained(sys.argv[1])
    model = AutoModel.from_pretrained(sys.argv[1]).to(sys.argv[2]).eval()
    samples, rate = soundfile.read(sys.argv[3], dtype="float32")
    with torch.inference_mode():
        values = prepare(samples, sampling_rate=rate, return_tensors="pt").input_values
        print(json.dumps(model(values.to(sys.argv[2]))[0].mean(1)[0].tolist()))"""


class Transformers:
    """transformers' own class from an unconverted checkpoint's folder, and the head of its class or model card.

    The class is the one that config.json names: Wav2Vec2Model, HubertModel or WavLMModel. The forward pass of
    speechbrain's models is in speechbrain.py.

    Raises:
        CheckpointError: The checkpoint has no config.json, which transformers cannot do without; or transformers did
            not load all of its weights.
        RuntimeUnavailable: transformers cannot be imported, or no forward pass is published for the head.
    """

    library: ClassVar[str] = "transformers"
    tolerances: ClassVar[Tolerances] = Tolerances()

    prepare: Callable[..., Mapping[str, Any]]
    heads: Heads | speechbrain.Head

    def __init__(self, checkpoint: Checkpoint) -> None:
        if checkpoint.config is None:
            raise CheckpointError(f"{checkpoint.repository}: transformers needs the config.json of the checkpoint")
        folder = checkpoint.weights.parent
        with quiet():
            try:
                from transformers import AutoModel, Wav2Vec2FeatureExtractor
            except ImportError as error:
                raise RuntimeUnavailable(
                    f"transformers cannot be imported ({error}): pip install --upgrade transformers"
                ) from error

            if checkpoint.head_weights:
                self.model, self.prepare = speechbrain.encoder(checkpoint).eval().float(), speechbrain.prepare
                self.heads = speechbrain.Head(checkpoint)
                return
            from_pretrained: Any = AutoModel.from_pretrained
            self.model = from_pretrained(folder, local_files_only=True)
            self.prepare = Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True)
        self.model.eval().float()
        state = tensors(checkpoint)
        if missed := list(_missed(self.model, state)):
            raise CheckpointError(
                f"{checkpoint.weights}: transformers did not load {', '.join(missed)}: "
                f"pip install --upgrade transformers, or use another version"
            )
        self.heads = Heads(state)

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip; see `Reference`."""
        import torch

        model = self.model
        hooks = Hooks()
        for i, layer in enumerate(model.feature_extractor.conv_layers):
            hooks.keep(f"conv_layers.{i}", layer, lambda output: output.mT)
        hooks.keep("projection", model.feature_projection, _first)
        hooks.keep("positions", model.encoder.pos_conv_embed)
        for i, block in enumerate(model.encoder.layers):
            hooks.keep(f"blocks.{i}", block, _first)
        found = hooks.found
        try:
            with torch.inference_mode():
                prepared = self.prepare(waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt")
                source = prepared["input_values"]
                found["waveform"] = source[0].numpy().copy()
                states = self.states(source)
        finally:
            hooks.remove()
        found["frames"] = states[-1][0].numpy()
        return found | self.heads.stages(states)

    def states(self, source: Any) -> list[Any]:
        """Returns the last hidden state of prepared waveforms; before it all others, if the head sums them.

        The last one is taken after the final norm, as in version 4 of transformers, with which the published models
        were made: version 5 leaves that norm out of `hidden_states`.
        """
        output = self.model(source, output_hidden_states=self.heads.sums)
        return [*(output.hidden_states or ())[:-1], output.last_hidden_state]


def _first(output: Any) -> Any:
    """Returns what a module computes, which some versions and classes return with other values after it."""
    return output[0] if isinstance(output, tuple) else output


def _missed(model: Any, state: Mapping[str, Any]) -> Iterator[str]:
    """Yields the parameters that do not have the values of the file: transformers fills them with random ones."""
    import torch

    stored = {}
    for name, tensor in state.items():
        bare = re.sub(r"^(wav2vec2|hubert|wavlm)\.", "", name)
        bare = bare.replace("weight_g", "parametrizations.weight.original0")
        stored[bare.replace("weight_v", "parametrizations.weight.original1")] = tensor
    for name, value in model.state_dict().items():
        used = name != "masked_spec_embed"  # in training alone
        if used and not (name in stored and torch.equal(value, stored[name].float())):
            yield name


def _transformers(checkpoint: Checkpoint, device: str) -> Callable[[list[str]], list[Vector]]:
    import torch

    reference = Transformers(checkpoint)
    reference.model.to(device)

    def answer(paths: list[str]) -> list[Vector]:
        answers = []
        for path in paths:
            samples, rate = soundfile.read(path, dtype="float32")
            with torch.inference_mode():
                values = reference.prepare(samples, sampling_rate=rate, return_tensors="pt")["input_values"]
                found = reference.heads.stages(reference.states(values.to(device)))
                answers.append(found.get("logits", found["pooled"]))
        return answers

    return answer


REFERENCE = Transformers
PEER = Peer(Transformers.library, PROGRAM, _transformers)
