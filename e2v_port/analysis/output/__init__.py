"""An analysis for people and other programs.

formats.py      every text format by its name
subtitles.py    short cues of words
transcript.py   turns as Markdown and as a table
terminal.py     on the terminal
plots.py        as a picture
"""
