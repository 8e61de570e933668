"""Names and shapes of the tensors of common layers, as they are stored."""

__all__ = ["Shape", "block", "is_size", "linear", "norm"]

Shape = tuple[int, ...]

LARGEST = 1 << 16  # far above any size of a real model; a corrupt one is refused before it costs time and memory


def is_size(value: object, lowest: int = 1) -> bool:
    """Returns whether a value can be a size of a model."""
    return type(value) is int and lowest <= value <= LARGEST


def linear(name: str, out: int, dim: int) -> dict[str, Shape]:
    """Returns the tensors of a linear layer, [out, in]."""
    return {f"{name}.weight": (out, dim), f"{name}.bias": (out,)}


def norm(name: str, dim: int) -> dict[str, Shape]:
    """Returns the tensors of a norm with gain and shift."""
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def block(name: str, dim: int, ffn_dim: int) -> dict[str, Shape]:
    """Returns the tensors of one transformer block: attention, an MLP and a norm for each."""
    return (
        linear(f"{name}.attn.q_proj", dim, dim)
        | linear(f"{name}.attn.k_proj", dim, dim)
        | linear(f"{name}.attn.v_proj", dim, dim)
        | linear(f"{name}.attn.out_proj", dim, dim)
        | norm(f"{name}.norm1", dim)
        | linear(f"{name}.mlp.fc1", ffn_dim, dim)
        | linear(f"{name}.mlp.fc2", dim, ffn_dim)
        | norm(f"{name}.norm2", dim)
    )
