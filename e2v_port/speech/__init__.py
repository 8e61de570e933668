"""Finds segments of speech in clips, streams and transcripts."""
