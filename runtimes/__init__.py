"""Every network in torch (cuda, cpu, mps), in MLX and in numpy, and the runtimes that load and run them."""
