"""How many operations a clip takes, counted from the sizes of a model."""

from itertools import pairwise

from e2v_port.config import Architecture, Emotion2vecConfig, Transformer, Wav2smallConfig, Wav2vec2Config

__all__ = ["flops", "flops_by_part"]


def flops(config: Architecture, samples: int) -> int:
    """Returns how many floating-point operations one clip of this many samples takes."""
    return sum(flops_by_part(config, samples).values())


def flops_by_part(config: Architecture, samples: int) -> dict[str, int]:
    """Counts the operations of matrix products and convolutions, a multiplication and an addition each.

    With T frames, D wide, E extra tokens, N = T + E and F inside the MLP:

        a convolution of kernel k from C to C' channels in g groups, over T frames: 2 T k C C' / g
        a linear layer from D to F, over T frames: 2 T D F
        attention: 8 N D^2 for its four layers, 4 N^2 D for the products of queries, keys and values
        an MLP: 4 N D F

    A positional convolution with an even kernel makes a frame too many, which is counted. Norms, activations, softmax
    and Fourier transforms are not.

    Raises:
        ValueError: An architecture of no known family.
    """
    if isinstance(config, Wav2smallConfig):
        return _wav2small_flops(config, samples)
    if isinstance(config, Emotion2vecConfig):
        layers = config.conv_pos_depth
        return _transformer_flops(config, samples, layers, config.prenet_depth + config.depth)
    if isinstance(config, Wav2vec2Config):
        return _transformer_flops(config, samples, 1, config.depth)
    raise ValueError(f"no family has a {type(config).__name__}")


def _transformer_flops(config: Transformer, samples: int, position_layers: int, blocks: int) -> dict[str, int]:
    width, time, channels, convolutions = config.embed_dim, samples, 1, 0
    for out, kernel, stride in config.conv_layers:
        time = (time - kernel) // stride + 1
        convolutions += 2 * time * kernel * channels * out
        channels = out
    even = 1 - config.conv_pos_kernel % 2
    position = 2 * (time + even) * config.conv_pos_kernel * width * (width // config.conv_pos_groups)
    tokens = config.tokens(samples)
    return {
        "convolutions": convolutions,
        "projection": 2 * time * channels * width,
        "positions": position_layers * position,
        "attention": blocks * (8 * tokens * width**2 + 4 * tokens**2 * width),
        "MLP": blocks * 4 * tokens * width * config.ffn_dim,
        "head": _head_flops(config),
    }


def _wav2small_flops(config: Wav2smallConfig, samples: int) -> dict[str, int]:
    time, bands, channels, convolutions = config.windows(samples), config.bands, 1, 0
    mel = 2 * time * (config.window // 2 + 1) * bands
    for number, stage in enumerate(config.stages):
        if number:
            time, bands = (time + 1) // 2, (bands + 1) // 2
        for before, out in pairwise((channels, *stage)):
            convolutions += 2 * time * bands * 9 * before * out
        channels = stage[-1]
    if config.pooling == "gram":  # of every frame and of the whole
        pooling = 4 * time * bands * channels * config.width + 2 * (time + 1) * config.width**2 * bands
    else:
        pooling = 2 * time * config.width * (channels * bands + config.width)
    return {"spectrogram": mel, "convolutions": convolutions, "pooling": pooling, "head": _head_flops(config)}


def _head_flops(config: Architecture) -> int:
    widths = [config.embed_dim, *([config.head_dim] if config.head_dim else []), config.num_labels]
    return sum(2 * before * after for before, after in pairwise(widths))
