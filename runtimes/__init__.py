"""Every network twice, in torch (cuda, cpu, mps) and in MLX, and the runtimes that load and run them."""
