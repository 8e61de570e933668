"""Recognizes encoded audio by its first bytes."""

from typing import NamedTuple

__all__ = ["HEAD_BYTES", "Container", "MpegFrame", "container", "mpeg_frame"]

HEAD_BYTES = 12  # that `container` needs for certain, except for streams of frames

# Position and value of the bytes that mark a format, its name, and its demuxer in FFmpeg ("" without one). A `.` stands
# for any byte.
_MARKS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"RIFF....WAVE", "a WAV file", "wav"),
    (0, b"RIFX....WAVE", "a WAV file", "wav"),
    (0, b"RF64....WAVE", "a WAV file", "wav"),
    (0, b"BW64....WAVE", "a WAV file", "wav"),
    (0, b"RIFF....AVI ", "an AVI file", "avi"),
    (0, b"riff.\x91\xcf\x11\xa5\xd6\x28\xdb", "a W64 file", "w64"),
    (0, b"FORM....AIF", "an AIFF file", "aiff"),
    (0, b"fLaC", "a FLAC file", "flac"),
    (0, b"OggS", "an Ogg file (Vorbis, Opus)", "ogg"),
    (0, b"ID3", "an MP3 file", "mp3"),
    (0, b"\x1a\x45\xdf\xa3", "a WebM or Matroska file", "matroska"),
    (4, b"ftyp", "an MP4, M4A or 3GP file", "mov"),
    (4, b"styp", "an MP4 segment", "mov"),
    (4, b"moof", "an MP4 segment", "mov"),
    (4, b"moov", "a QuickTime file", "mov"),
    (4, b"wide", "a QuickTime file", "mov"),
    (4, b"mdat", "a QuickTime file", "mov"),
    (0, b"#!AMR", "an AMR file", "amr"),
    (0, b"ADIF", "an AAC file", ""),
    (0, b".snd", "an AU file", "au"),
    (0, b"caff", "a CAF file", "caf"),
    (0, b"wvpk", "a WavPack file", "wv"),
    (0, b"MAC ", "a Monkey's Audio file", ""),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a WMA file", "asf"),
    (0, b"FLV\x01", "an FLV file", "flv"),
    (0, b"G" + b"." * 187 + b"G" + b"." * 187 + b"G", "an MPEG transport stream", "mpegts"),
    (0, b"\x00\x00\x01\xba", "an MPEG program stream", "mpeg"),
)
# kbit/s by the index in the header of a frame (ISO 11172-3, 13818-3): layers I, II and III of MPEG-1, then I of MPEG-2
# and 2.5, then II and III of these.
_MPEG_RATES = (
    (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448, 0),
    (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 0),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256, 0),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
)
_SAMPLING_RATES = (44_100, 48_000, 32_000)  # Hz, of MPEG-1; a half and a quarter of it in 2 and 2.5
_FRAMES = 3  # in a row make a stream of frames: the mark of a single one, 11 bits, occurs in samples


class Container(NamedTuple):
    """A format of encoded audio.

    Attributes:
        name: Its name, with an article.
        demuxer: Its demuxer in FFmpeg; empty without one.
    """

    name: str
    demuxer: str


class MpegFrame(NamedTuple):
    """The header of a frame of MPEG audio, layer I, II or III.

    Attributes:
        kind: What is equal in all frames of a stream.
        size: Bytes of the frame.
        samples: Samples per channel in it.
        rate: Sampling rate, in Hz.
    """

    kind: int
    size: int
    samples: int
    rate: int


def container(head: bytes) -> Container | None:
    """Returns the format that bytes begin with; None for samples and anything unknown.

    Args:
        head: First bytes of a file or stream. Formats with a mark need `HEAD_BYTES`; MP3 and AAC without one are
            recognized by three frames, at most 17 kB, and MPEG transport streams by three packets.
    """
    for start, mark, name, demuxer in _MARKS:
        found = head[start : start + len(mark)]
        if len(found) == len(mark) and all(b in {a, 0x2E} for a, b in zip(found, mark, strict=True)):
            return Container(name, demuxer)
    for length, found_name, demuxer in (_mpeg, "an MP3 stream", "mp3"), (_aac, "an AAC stream (ADTS)", "aac"):
        at, kinds = 0, set()
        for _ in range(_FRAMES):
            kind, size = length(head[at : at + 6])
            kinds.add(kind)
            at += size
            if not size or len(kinds) > 1:
                break
        else:
            return Container(found_name, demuxer)
    return None


def mpeg_frame(header: bytes) -> MpegFrame | None:
    """Reads the header of a frame of MPEG audio; None if it is none. Frames of a free bit rate are not recognized."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:  # eleven ones
        return None
    version, layer, index = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3), header[2] >> 2 & 3
    first = version == 3  # MPEG-1; 2 is MPEG-2, 0 is 2.5
    if version == 1 or layer == 4 or index == 3:
        return None
    bits = _MPEG_RATES[layer - 1 if first else 3 + (layer > 1)][header[2] >> 4]
    rate = _SAMPLING_RATES[index] // {3: 1, 2: 2, 0: 4}[version]
    samples = 384 if layer == 1 else 1152 if first or layer == 2 else 576
    slot = 4 if layer == 1 else 1  # bytes in which sizes are counted
    size = (samples // 8 * 1000 * bits // rate // slot + (header[2] >> 1 & 1)) * slot
    return MpegFrame(header[1] << 2 | index, size, samples, rate) if bits else None


def _mpeg(header: bytes) -> tuple[int, int]:
    """Returns the constant fields of an MPEG audio frame and its bytes; 0 bytes if there is none."""
    frame = mpeg_frame(header)
    return (frame.kind, frame.size) if frame else (0, 0)


def _aac(header: bytes) -> tuple[int, int]:
    """Returns the constant fields of an ADTS frame and its bytes; 0 bytes if there is none."""
    if len(header) < 6 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0 or header[2] >> 2 & 15 > 12:
        return 0, 0
    size = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return header[1] << 8 | header[2] & 0xFD, size if size > 6 else 0
