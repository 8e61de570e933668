"""transformers' wav2vec2, HuBERT and WavLM, run stage by stage, with the head of audeering's model card."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import soundfile
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.checkpoints.checkpoint import Checkpoint
from e2v_port.errors import CheckpointError, RuntimeUnavailable
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
    """transformers' own class from an unconverted checkpoint's folder, and the head of audeering's model card.

    The class is the one that config.json names: Wav2Vec2Model, HubertModel or WavLMModel.

    Raises:
        CheckpointError: The checkpoint has no config.json, which transformers cannot do without; or transformers did
            not load all of its weights.
        RuntimeUnavailable: transformers cannot be imported.
    """

    library: ClassVar[str] = "transformers"
    tolerances: ClassVar[Tolerances] = Tolerances()

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

            from_pretrained: Any = AutoModel.from_pretrained
            self.model = from_pretrained(folder, local_files_only=True)
            self.prepare: Any = Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True)
        self.model.eval().float()
        state = tensors(checkpoint)
        if missed := list(_missed(self.model, state)):
            raise CheckpointError(
                f"{checkpoint.weights}: transformers did not load {', '.join(missed)}: "
                f"pip install --upgrade transformers, or use another version"
            )
        self.head = {name: tensor.float() for name, tensor in state.items() if name.startswith("classifier.")}

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip; see `Reference`."""
        import torch
        from torch.nn import functional

        def first(output: Any) -> Any:  # modules of some of the classes, and versions, return more than one value
            return output if isinstance(output, torch.Tensor) else output[0]

        model, head = self.model, self.head
        hooks = Hooks()
        for i, layer in enumerate(model.feature_extractor.conv_layers):
            hooks.keep(f"conv_layers.{i}", layer, lambda output: output.mT)
        hooks.keep("projection", model.feature_projection, first)
        hooks.keep("positions", model.encoder.pos_conv_embed)
        for i, block in enumerate(model.encoder.layers):
            hooks.keep(f"blocks.{i}", block, first)
        found = hooks.found
        try:
            with torch.inference_mode():
                prepared = self.prepare(waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt")
                source = prepared["input_values"]
                found["waveform"] = source[0].numpy().copy()
                frames = model(source)[0]
                found["frames"] = frames[0].numpy()
                pooled = frames.mean(dim=1)
                found["pooled"] = pooled[0].numpy()
                if head:
                    x = functional.linear(pooled, head["classifier.dense.weight"], head["classifier.dense.bias"])
                    weight, bias = head["classifier.out_proj.weight"], head["classifier.out_proj.bias"]
                    found["logits"] = functional.linear(torch.tanh(x), weight, bias)[0].numpy()
        finally:
            hooks.remove()
        return found


def _missed(model: Any, state: Mapping[str, Any]) -> Iterator[str]:
    """Yields the parameters that do not have the values of the file: transformers fills them with random ones."""
    import torch

    def own(name: str) -> str:
        name = re.sub(r"^(wav2vec2|hubert|wavlm)\.", "", name)
        for i, old in enumerate(("weight_g", "weight_v")):
            name = name.replace(old, f"parametrizations.weight.original{i}")
        return name

    stored = {own(name): tensor for name, tensor in state.items()}
    for name, value in model.state_dict().items():
        used = name != "masked_spec_embed"  # in training alone
        if used and not (name in stored and torch.equal(value, stored[name].float())):
            yield name


def _transformers(checkpoint: Checkpoint, device: str) -> Callable[[list[str]], list[Vector]]:
    import torch
    from torch.nn.functional import linear

    reference = Transformers(checkpoint)
    model = reference.model.to(device)
    head = {name: tensor.to(device) for name, tensor in reference.head.items()}

    def answer(paths: list[str]) -> list[Vector]:
        answers = []
        for path in paths:
            samples, rate = soundfile.read(path, dtype="float32")
            with torch.inference_mode():
                values = reference.prepare(samples, sampling_rate=rate, return_tensors="pt")["input_values"]
                x = model(values.to(device))[0].mean(1)
                if head:
                    x = torch.tanh(linear(x, head["classifier.dense.weight"], head["classifier.dense.bias"]))
                    x = linear(x, head["classifier.out_proj.weight"], head["classifier.out_proj.bias"])
                answers.append(x[0].float().cpu().numpy())
        return answers

    return answer


REFERENCE = Transformers
PEER = Peer(Transformers.library, PROGRAM, _transformers)
