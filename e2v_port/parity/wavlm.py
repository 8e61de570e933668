"""transformers' WavLM, run stage by stage: the reference of wav2vec2, which takes the class that config.json names."""

from e2v_port.parity.wav2vec2 import PEER, REFERENCE

__all__ = ["PEER", "REFERENCE"]
