"""The faster paths of runtimes/fast give the numbers of the plain layers. For compiled layers, see test_cuda.py."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import toys
from torch import Tensor, nn

from e2v_port.architectures.base import Transformer
from e2v_port.architectures.registry import family_of
from e2v_port.runtimes import emotion2vec_torch, wav2vec2_torch, wavlm_torch, whisper_torch
from e2v_port.runtimes.fast import compiled, onednn, tiles
from e2v_port.runtimes.layers_torch import Attention, Convolution, Encoder, Mlp, Positions, untraced

NETWORKS: dict[str, Any] = {
    "emotion2vec": emotion2vec_torch.Emotion2vec,
    "wav2vec2": wav2vec2_torch.Wav2vec2,
    "wavlm": wavlm_torch.Wavlm,
    "whisper": whisper_torch.Whisper,
}
CONFIGS = {
    "emotion2vec": toys.TOY,
    "wav2vec2": toys.DIMENSIONAL,
    "wav2vec2 of the base kind": replace(toys.DIMENSIONAL, conv_norm="group", pre_norm=False, conv_bias=False),
    "wavlm": replace(toys.WAVLM, num_labels=3),
    "whisper": replace(toys.WHISPER, num_labels=3),
}
TILED = [name for name in CONFIGS if name != "whisper"]  # which begins with a spectrogram of the whole clip


def network(name: str) -> Encoder:
    """Returns a toy network with random weights."""
    config: Transformer = CONFIGS[name]
    model: Encoder = NETWORKS[family_of(config).name](config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for tensor in model.parameters():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) / max(tensor[0].numel(), 1) ** 0.5)
    return model


@pytest.mark.parametrize("name", TILED)
@pytest.mark.parametrize("clips", [1, 3, 2 * tiles.FRAMES], ids="{} clips".format)
def test_tiles_give_the_features_of_whole_layers(name: str, clips: int) -> None:
    model = network(name)
    hop = model.config.hop
    shortest = next(samples for samples in range(1, 10 * hop) if model.config.frames(samples) == 1)
    per_tile = max(tiles.FRAMES // clips, 1)
    for frames in (1, per_tile, per_tile + 1, 3 * per_tile - 1):
        longest = shortest + (frames - 1) * hop + hop // 2
        waveform = torch.randn(clips, longest, generator=torch.Generator().manual_seed(frames))
        samples = torch.linspace(shortest, longest, clips).long()
        expected, lengths = model.extract(waveform, samples, untraced)
        tiled = network(name)
        tiles.tile(tiled)
        features, counts = tiled.extract(waveform, samples, untraced)
        assert features.shape[1] == frames
        assert counts.tolist() == lengths.tolist() == [model.config.frames(int(count)) for count in samples]
        torch.testing.assert_close(features, expected, rtol=0, atol=2e-5)


@pytest.mark.skipif(not onednn.available(), reason="no products in bfloat16 by oneDNN on this CPU")
@pytest.mark.parametrize("name", ["emotion2vec", "wavlm", "whisper"])
def test_every_layer_but_the_head_is_packed(name: str) -> None:
    model = network(name).bfloat16()
    onednn.pack(model)
    plain = {nn.Linear, Attention, Convolution, Mlp, Positions}
    assert {type(part) for part in model.modules()} & plain == set()
    assert model.head is not None
    assert model.head.weight.dtype == torch.bfloat16


def test_a_bias_that_is_no_slope_times_a_distance_is_not_compiled() -> None:
    class Squared(emotion2vec_torch.Emotion2vec):
        def bias(self, x: Tensor, valid: Tensor, padded: bool) -> Tensor:
            return -super().bias(x, valid, padded).square()

    model = Squared(toys.TOY)
    model.load_state_dict(network("emotion2vec").state_dict())
    with torch.device("meta"):
        empty = Squared(toys.TOY)
    with pytest.raises(ValueError, match="slope times a distance"):
        compiled.compiled(model, empty)


def test_a_bias_that_depends_on_the_frames_is_not_compiled() -> None:
    with torch.device("meta"):
        empty = wavlm_torch.Wavlm(CONFIGS["wavlm"])
    with pytest.raises(ValueError, match="more than a bias of distances"):
        compiled.compiled(network("wavlm"), empty)
