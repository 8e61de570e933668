"""The manifest of known models, as data; read with importlib.resources."""
