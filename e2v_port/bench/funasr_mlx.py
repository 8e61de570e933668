"""funasr-mlx, which runs FunASR's emotion2vec on MLX: what `e2v bench --runtime mlx` compares with where it is there.

It takes FunASR's tensors and runs clips one by one, in float32. Its limit of 10 s to a clip is raised here.
"""

from collections.abc import Callable
from dataclasses import fields
from importlib.util import find_spec

import numpy as np

from e2v_port.audio import SAMPLING_RATE
from e2v_port.checkpoints.checkpoint import Checkpoint
from e2v_port.errors import CheckpointError
from e2v_port.parity.references import Peer, Vector, tensors

__all__ = ["FAMILY", "PEER", "installed"]

FAMILY = "emotion2vec"
LIMIT = 1 << 30  # samples or frames of a clip: none


def installed() -> bool:
    """Returns whether funasr-mlx is installed."""
    return find_spec("funasr_mlx") is not None


def _load(checkpoint: Checkpoint, _device: str) -> Callable[[list[str]], list[Vector]]:
    if checkpoint.config is None:
        raise CheckpointError(f"{checkpoint.repository}: funasr-mlx needs the config.yaml of the checkpoint")
    import mlx.core as mx
    import yaml
    from funasr_mlx.frontend import read_audio
    from funasr_mlx.models import emotion2vec as theirs

    settings = yaml.safe_load(checkpoint.config.read_text("utf-8"))["model_conf"]
    settings |= settings["modalities"]["audio"]
    settings["norm_eps"] = float(settings["norm_eps"])  # YAML reads 1e-05 as text
    known = {field.name for field in fields(theirs.Emotion2VecConfig) if field.init}
    labels = checkpoint.tokens.read_text("utf-8").split() if checkpoint.tokens else []
    used = [i for i, label in enumerate(labels) if not label.startswith("unuse")]
    config = theirs.Emotion2VecConfig(
        **{name: value for name, value in settings.items() if name in known},
        vocab_size=len(labels) or -1,
        labels=tuple(labels),
        max_samples=LIMIT,
        max_frames=LIMIT,
    )
    model = theirs.Emotion2VecModel(config)
    stored = tensors(checkpoint)
    for key in ("state_dict", "model_state_dict", "model"):  # FunASR's order of unwrapping
        stored = stored.get(key, stored)
    state = {name.removeprefix("d2v_model."): value.float().numpy() for name, value in stored.items()}
    theirs.load_state_dict_strict(model, state)
    model.eval()
    mx.eval(model.parameters())

    def answer(paths: list[str]) -> list[Vector]:
        answers = []
        for path in paths:
            samples = read_audio(path, max_seconds=LIMIT / SAMPLING_RATE)
            waveform = theirs.preprocess_waveform(mx.array(samples), normalize=config.normalize)
            if used:
                answers.append(np.array(model.emotion_scores(waveform).scores, np.float32))
            else:
                answers.append(np.array(model.extract_features(waveform).mean(1)[0]))
        return answers

    return answer


# Its users convert a checkpoint first, so there is no program that judges a clip from FunASR's files.
PEER = Peer("funasr-mlx", "", _load)
