"""What is said: words with their times, and the segments they belong to.

words.py      a word, a transcript, and which segment each word belongs to
whisper.py    Whisper through faster-whisper
"""
