"""The same architectures twice: torch (cuda, cpu, mps) and MLX."""
