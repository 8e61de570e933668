"""PyTorch checkpoint -> npz -> safetensors."""
