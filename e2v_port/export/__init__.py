"""Models as files for other programs: ONNX, checked against this package."""
