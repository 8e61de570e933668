"""Measures how a voice sounds: pitch, voice quality, tempo, loudness, and what they suggest about a speaker."""
