"""Emotion vocabularies as data; read with importlib.resources."""
