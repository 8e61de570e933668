"""Who speaks: windows over speech, their voices compared, and segments with the names of speakers.

windows.py    parts of speech short enough for one voice each
cluster.py    which windows have one voice, and how many voices there are
diarize.py    segments split where the speaker changes, and named
"""
