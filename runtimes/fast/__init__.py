"""Faster implementations of the torch twins, each for one kind of device. They change no answer."""
