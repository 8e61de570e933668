"""Conversion: PyTorch checkpoint -> npz -> safetensors. One module per family, and what they share."""
