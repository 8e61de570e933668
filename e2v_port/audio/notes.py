"""Notes on the sound of a clip: what a user must know about it beside the result."""

from typing import NamedTuple

__all__ = ["Note"]


class Note(NamedTuple):
    """Something the user must know about the sound of a clip.

    Attributes:
        kind: What it is, as a short word for programs:

            * `channels_cancel`: the mix of the channels nearly cancels; the loudest was judged instead.
            * `silent_channel`: some channels are silent; the others were judged.
            * `silence`: all samples, or all of a channel, are equal.
            * `quiet`: most of the speech was found only since speech detection heard it raised.
            * `cut_off`: the file is cut off or damaged; what could be decoded was judged.
            * `other_tracks`: the file has several audio tracks; one was judged.
            * `clipped_end`: given segments ended after the clip, by 1 s or less, and were cut there.
            * `merged`: short given segments were joined with their neighbors of the same speaker.
            * `adapted`, `not_adapted`: whether the judgements of a speaker were adapted to the voice, and why not;
              only where that was asked for.
            * `strangers_removed`: the time of speakers who are not enrolled was cut out of the segments of others.
            * `speakers`: how many speakers were found by voice; `speaker_doubt`: where another one is almost as likely;
              `speakers_unknown`: where speech is too short to tell; `speakers_sampled`: from which windows.
            * `not_enrolled`: segments were neither judged nor read: their voice is not certain to be an enrolled one.
        text: The same in one English line, without the name of the clip.
    """

    kind: str
    text: str
