"""Network architectures, one file per family: sizes, stored tensors, operations."""
