"""Who speaks: windows over speech, their voices compared, and segments with the names of speakers.

windows.py    parts of speech short enough for one voice each
cluster.py    which windows have one voice, and how many voices there are
pieces.py     speech of one voice each, and the segments it makes
diarize.py    a clip's segments with the names of their speakers
roster.py     enrolled voices, and the file that keeps them
known.py      segments with the names of enrolled voices
"""
