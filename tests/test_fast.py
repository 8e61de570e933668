"""The faster paths of runtimes/fast give the numbers of the plain layers. For compiled layers, see test_cuda.py."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
import toys
from torch import Tensor, nn

from e2v_port.architectures.base import Transformer
from e2v_port.architectures.registry import family_of
from e2v_port.runtimes import (
    emotion2vec_torch,
    sensevoice_torch,
    wav2small_torch,
    wav2vec2_torch,
    wavlm_torch,
    whisper_torch,
)
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


@pytest.mark.skipif(not onednn.available("float32"), reason="oneDNN has no advantage in float32 on this CPU")
@pytest.mark.parametrize("name", [*CONFIGS])
def test_packed_layers_answer_like_plain_ones_in_float32(name: str) -> None:
    samples = [16_000, 11_111, 4_321]
    generator = torch.Generator().manual_seed(1)
    waveform = torch.randn(len(samples), max(samples), generator=generator) + 0.5  # far from a mean of zero
    for clip, length in zip(waveform, samples, strict=True):
        clip[length:] = 0
    plain, packed = network(name), network(name)
    onednn.pack(packed)
    if name in TILED:
        tiles.tile(packed)
    counts = torch.tensor(samples)
    expected, found = (model.encode(waveform, counts, True) for model in (plain, packed))
    for i, length in enumerate(samples):
        frames = plain.config.frames(length)
        torch.testing.assert_close(found[0][i, :frames], expected[0][i, :frames], rtol=0, atol=2e-5)
    for each, wanted in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(each, wanted, rtol=0, atol=2e-5)


@pytest.mark.skipif(not onednn.available("bfloat16"), reason="no products in bfloat16 by oneDNN on this CPU")
@pytest.mark.parametrize("name", ["emotion2vec", "wavlm", "whisper"])
def test_every_layer_but_the_head_is_packed(name: str) -> None:
    model = network(name).bfloat16()
    onednn.pack(model)
    plain = {nn.Linear, Attention, Convolution, Mlp, Positions}
    assert {type(part) for part in model.modules()} & plain == set()
    assert model.head is not None
    assert model.head.weight.dtype == torch.bfloat16


PLAIN_OR_PACKED = [
    "plain",
    pytest.param(
        "packed",
        marks=pytest.mark.skipif(
            not onednn.available("bfloat16"), reason="no products in bfloat16 by oneDNN on this CPU"
        ),
    ),
]


@pytest.mark.parametrize("layer", PLAIN_OR_PACKED)
@pytest.mark.parametrize("channels", [2, 4, 6, 8, 12, 14, 16, 18, 48])
def test_positions_in_bfloat16_are_right_for_any_channels_and_kernel(channels: int, layer: str) -> None:
    """oneDNN's own product on CPUs with AMX is not, for few channels and kernels such as 8, 16, 64 and 128."""
    draw = torch.Generator().manual_seed(channels)
    groups = 4
    for kernel in (3, 8, 16, 19, 128):
        exact = Positions(groups * channels, kernel, groups, norm=False).requires_grad_(False)
        exact.weight.copy_(torch.randn(exact.weight.shape, generator=draw) / (kernel * channels) ** 0.5)
        exact.bias.copy_(torch.randn(exact.bias.shape, generator=draw))
        narrow = deepcopy(exact).bfloat16()
        exact.load_state_dict(narrow.state_dict())
        x = torch.randn(2, 150, groups * channels, generator=draw).bfloat16()
        found = (onednn.PackedPositions(narrow) if layer == "packed" else narrow)(x)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), exact(x.float()), rtol=0.01, atol=0.02)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        *((sensevoice_torch.Memory(channels, 11), (2, 60, channels)) for channels in (8, 64, 512)),
        *((wav2small_torch.ConvLayer(*channels), (2, channels[0], 50, 26)) for channels in ((1, 13), (13, 13), (8, 4))),
    ],
    ids=["memory of 8", "memory of 64", "memory of 512", "1 to 13 channels", "13 to 13", "8 to 4"],
)
def test_other_convolutions_in_bfloat16_are_right_and_so_are_their_gradients(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    draw = torch.Generator().manual_seed(0)
    for weights in layer.parameters():
        weights.data.copy_(torch.randn(weights.shape, generator=draw) / weights[0].numel() ** 0.5)
    narrow = deepcopy(layer).bfloat16()
    layer.load_state_dict(narrow.state_dict())
    x = torch.randn(shape, generator=draw).bfloat16()
    found, exact = narrow(x), layer(x.float())
    torch.testing.assert_close(found.float(), exact, rtol=0.01, atol=0.02)
    slope = torch.randn(exact.shape, generator=draw).bfloat16()
    found.backward(slope)
    exact.backward(slope.float())
    for one, other in zip(narrow.parameters(), layer.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert (one.grad.float() - other.grad).abs().max() < 0.02 * other.grad.abs().max()


@pytest.mark.skipif(not onednn.available("bfloat16"), reason="no products in bfloat16 by oneDNN on this CPU")
@pytest.mark.parametrize("width", [3, 9, 16, 33, 48, 64, 200, 768])
def test_products_in_bfloat16_are_right_for_any_width(width: int) -> None:
    draw = torch.Generator().manual_seed(width)
    for outputs in (3, 8, 24, 96, 768):
        for rows in (1, 5, 33, 200):
            shapes = (outputs, width), (outputs,), (2, rows, width), (2, rows, outputs)
            weight, bias, x, residual = (torch.randn(shape, generator=draw).bfloat16() for shape in shapes)
            weight /= width**0.5
            exact = nn.functional.linear(x.float(), weight.float(), bias.float())
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, onednn.ROWS)
            for found, wanted in (
                (onednn.multiply(x, packed, bias), exact),
                (onednn.multiply(x, packed, bias, gelu=True), nn.functional.gelu(exact)),
                (onednn.multiply(x, packed, bias, residual=residual), exact + residual.float()),
            ):
                torch.testing.assert_close(found.float(), wanted, rtol=0.01, atol=0.02)


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


@toys.needs_mlx
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_gelu_on_mlx_is_the_exact_one(dtype: str) -> None:
    import mlx.core as mx

    from e2v_port.runtimes import layers_mlx

    draw = torch.Generator().manual_seed(0)
    x = torch.cat([8 * torch.randn(300_000, generator=draw), torch.tensor([0.0, -0.0, 40.0, -40.0, 1e4, -1e4])])
    given = mx.array(x.numpy()).astype(getattr(mx, dtype)).reshape(3, -1)
    with mx.stream(mx.cpu):
        found = layers_mlx.gelu(given)
    assert (found.dtype, found.shape) == (given.dtype, given.shape)
    exact = torch.nn.functional.gelu(torch.tensor(given.astype(mx.float32).tolist(), dtype=torch.float64))
    within = 5e-7 if dtype == "float32" else torch.finfo(getattr(torch, dtype)).eps
    error = (torch.tensor(found.astype(mx.float32).tolist()) - exact).abs()
    assert (error <= within * (1 + exact.abs().clamp(min=1) + x.reshape(3, -1).abs())).all()
    assert mx.isnan(layers_mlx.gelu(mx.array([mx.nan]))).item()
