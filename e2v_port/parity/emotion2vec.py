"""FunASR's emotion2vec, run stage by stage."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import Waveform
from e2v_port.checkpoints.checkpoint import Checkpoint
from e2v_port.errors import CheckpointError, RuntimeUnavailable
from e2v_port.parity.references import Hooks, Peer, Tolerances, Vector
from e2v_port.quiet import quiet

__all__ = ["PEER", "REFERENCE", "FunASR"]


# What a user of the library writes to judge one clip.
PROGRAM = """if True:
    import json, sys
    from funasr import AutoModel
    model = AutoModel(model=sys.argv[1], disable_update=True, disable_pbar=True, log_level="ERROR",
                      device=sys.argv[2])
    answer, = model.generate(sys.argv[3], granularity="utterance", extract_embedding=False)
    print(json.dumps(answer["scores"]))"""


class FunASR:
    """FunASR's own model, built and filled by FunASR from an unconverted checkpoint, on the CPU.

    Raises:
        CheckpointError: The checkpoint has no config.yaml, which FunASR cannot do without.
        RuntimeUnavailable: FunASR, or something it needs, cannot be imported.
    """

    library: ClassVar[str] = "FunASR"
    tolerances: ClassVar[Tolerances] = Tolerances()

    def __init__(self, checkpoint: Checkpoint) -> None:
        if checkpoint.config is None:
            raise CheckpointError(f"{checkpoint.repository}: FunASR needs the config.yaml of the checkpoint")
        import yaml

        settings = yaml.safe_load(checkpoint.config.read_text("utf-8"))
        settings["model_conf"]["norm_eps"] = float(settings["model_conf"]["norm_eps"])  # YAML reads 1e-05 as text
        tokens = checkpoint.tokens.read_text("utf-8").split() if checkpoint.tokens else []
        with quiet():
            try:
                from funasr.models.emotion2vec.model import Emotion2vec
                from funasr.train_utils.load_pretrained_model import load_pretrained_model
            except ImportError as error:
                raise RuntimeUnavailable(
                    f"FunASR cannot be imported ({error}): pip install --upgrade funasr"
                ) from error

            self.model = Emotion2vec(model_conf=settings["model_conf"], vocab_size=len(tokens) or -1)
            load_pretrained_model(str(checkpoint.weights), self.model, scope_map=list(settings.get("scope_map") or []))
        self.model.eval().float()

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip; see `Reference`."""
        import torch
        from torch.nn import functional

        model = self.model
        encoder = model.modality_encoders["AUDIO"]

        def bias(inputs: Any) -> Any:
            # Features, padding mask, bias, scale. Heads without a slope are not in the bias.
            return functional.pad(inputs[2], (0, 0, 0, 0, 0, model.cfg.num_heads - inputs[2].shape[1]))

        hooks = Hooks()
        for i, layer in enumerate(encoder.local_encoder.conv_layers):
            hooks.keep(f"conv_layers.{i}", layer, lambda output: output.mT)
        hooks.keep("projection", encoder.project_features)
        for i, layer in enumerate([*encoder.relative_positional_encoder][1:-1]):
            hooks.keep(f"positions.{i}", layer, lambda output: output.mT)
        hooks.keep_input("bias", encoder.context_encoder, bias)
        hooks.keep("context_norm", encoder.context_encoder.norm)
        for i, block in enumerate(encoder.context_encoder.blocks):
            hooks.keep(f"context_blocks.{i}", block, lambda output: output[0])
        for i, block in enumerate(model.blocks):
            hooks.keep(f"blocks.{i}", block, lambda output: output[0])
        found = hooks.found
        try:
            with torch.inference_mode():
                source = torch.from_numpy(waveform)
                if model.cfg.normalize:
                    source = functional.layer_norm(source, source.shape)
                found["waveform"] = source.numpy().copy()
                frames = model.extract_features(source[None], padding_mask=None)["x"]
                pooled = frames.mean(dim=1)
                found["pooled"] = pooled[0].numpy()
                if model.proj is not None:
                    found["logits"] = model.proj(pooled)[0].numpy()
        finally:
            hooks.remove()
        return found


def _funasr(checkpoint: Checkpoint, device: str) -> Callable[[list[str]], list[Vector]]:
    import torch

    with quiet():
        from funasr import AutoModel

        model = AutoModel(
            model=str(checkpoint.weights.parent),
            disable_update=True,
            disable_pbar=True,
            log_level="ERROR",
            device=device,
            ncpu=torch.get_num_threads(),  # otherwise it sets 4 threads for all of torch, at every call
        )

    def answer(paths: list[str]) -> list[Vector]:
        answers = []
        with quiet():
            for path in paths:
                (result,) = model.generate(path, granularity="utterance", extract_embedding=False)
                answers.append(np.array(result["scores"] or result["feats"], np.float32))
        return answers

    return answer


REFERENCE = FunASR
PEER = Peer(FunASR.library, PROGRAM, _funasr)
