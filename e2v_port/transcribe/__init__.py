"""What is said: words with their times, and the segments they belong to.

words.py         a word, a transcript, what reads them, and which segment each word belongs to
load.py          from a name or folder to what reads
whisper.py       Whisper through faster-whisper
whisper_mlx.py   Whisper through mlx-whisper
sensevoice.py    SenseVoice on this project's runtimes
"""
