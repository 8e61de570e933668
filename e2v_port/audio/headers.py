"""The parts of a file that decoders are to read, in an order and with lengths that they understand."""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Literal, NamedTuple

from e2v_port.audio.containers import Container, container, mpeg_frame
from e2v_port.audio.mix import check_size
from e2v_port.audio.opening import Pieces, Source
from e2v_port.errors import AudioError

__all__ = ["Part", "has_known_length", "parts"]

_HEAD = 1 << 16  # bytes in which the begin of a stream of frames is looked for
_CHUNK = 1 << 20  # bytes read at a time
_MAX_CHUNKS = 1 << 16  # of a WAV file, or boxes of an MP4 file: one that is streamed has two a second or more
_STREAMED = 0xFFFFFFFF  # length in the header of a WAV file whose writer could not go back to fill it in
_NEGLIGIBLE = 0.05  # seconds: some writers count the header as samples
_MPEG_TAGS = (0x50, 0x55)  # of WAV files that hold MP2 or MP3
_PLACEHOLDERS = 0x7FFF_0000  # from here on, a length beyond the file is one that its writer put in front of a pipe

# Formats that libsndfile alone reads. Where it knows no mark, it looks for other files next to a file that has no name,
# and takes what it finds in the working folder (`.AppleDouble/`, `._`) for a part of it.
_SNDFILE_MARKS = (
    *(b"NIST_1A", b"Creative Voice File", b"PVF1", b"2BIT", b" paf", b"fap ", b"MATLAB 5.0", b"ALawSoundFile"),
    *(b"Extended Instrument: ", b"dns.", b"\xf0\x7e", b"\x01\x04"),  # XI, DEC's AU, SDS, MPC 2000
    *(b"\x64\xa3\x01\x00", b"\x64\xa3\x02\x00", b"\x64\xa3\x03\x00", b"\x64\xa3\x04\x00"),  # IRCAM
    *(b"\x00\x01\xa3\x64", b"\x00\x02\xa3\x64", b"\x00\x03\xa3\x64", b"\x00\x04\xa3\x64"),
)
_SNDFILE_FORMS = re.compile(rb".{8}\x00\x02\x00\x00|.{20}samplerate\x00", re.DOTALL)  # HTK of 16 bits, MAT 4

# Tables of MP4: packets of one size, with their number; runs of equal times; packets of a fragment.
_CONSTANT_SIZE = re.compile(rb"stsz.{4}(?!\x00{4}).{8}", re.DOTALL)
_TIMES = re.compile(rb"stts.{4}\x00\x00\x00\x01.{8}", re.DOTALL)
_RUN = re.compile(rb"trun.{4}", re.DOTALL)
_MAX_INDEX = 1 << 28  # bytes of an index that are looked at; one of 6 hours takes 10 MB
_MAX_SAMPLES = 10_000_000  # 6 hours in packets of 2.5 ms are 8.6 million

# A frame of layer III with a count of frames, before which its side information is empty; or an ID3v2 tag.
_BEGIN = re.compile(
    rb"\xff[\xe2-\xff]..(?:\x00\x00)?(?:\x00{9}|\x00{17}|\x00{32})(?:Xing|Info)|ID3[\x02-\x04].[\x00-\xf0][\x00-\x7f]{4}",
    re.DOTALL,
)
_PADDING = 4  # bytes by which MPEG frames of one bit rate differ, at most
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_LONGEST_BEGIN = 64  # bytes, at least those of a match of it


class Part(NamedTuple):
    """A part of a file that is decoded on its own.

    Attributes:
        file: What the decoder reads.
        demuxer: The demuxer of FFmpeg for it; empty without one.
        sndfile: Whether libsndfile may read it.
        seconds: Length that its header states, at least nearly; None if it states none.
        missing: How it is incomplete, as a clause; empty if nothing shows that.
    """

    file: Pieces
    demuxer: str
    sndfile: bool = False
    seconds: float | None = None
    missing: str = ""


def parts(source: Source) -> Iterator[Part]:
    """Yields the parts of a file, in order: several for joined MP3 files and chained Ogg files.

    Raises:
        AudioError: The file is empty, or in a format that is not read.
    """
    if not source.size:
        raise AudioError("an empty file (0 bytes): record or export it again")
    start, found = _begin(source)
    whole = range(start, source.size)
    if found is None:
        yield Part(Pieces(source, [whole]), "", sndfile=True)
    elif found.demuxer == "mp3":
        yield from _mpeg_parts(source, start)
    elif found.demuxer == "ogg":
        yield from _ogg_parts(source, start)
    elif found.demuxer == "wav":
        yield _wav(source, start)
    else:
        missing = ""
        if lacks := _LACKING.get(found.demuxer):
            missing = _early(lacks(source, start))
        sndfile = found.demuxer in {"w64", "aiff", "flac", "au", "caf"}
        yield Part(Pieces(source, [whole]), found.demuxer, sndfile, missing=missing)


def _early(lacking: int) -> str:
    return f"{lacking} bytes are missing at its end" if lacking > 0 else ""


def _begin(source: Source) -> tuple[int, Container | None]:
    """Returns where the audio begins, after tags and zeros, and its format; None for one of libsndfile's own."""
    at = 0
    while True:
        head = source.read(at, _HEAD)
        found = container(head)
        if found and found.name == "an MP3 file":  # its tag may stand before other formats, too
            at += 10 + _tag_size(head)
        elif head.startswith(b"TAG"):
            at += 128
        elif found:
            return at, found
        elif head.startswith(_SNDFILE_MARKS) or _SNDFILE_FORMS.match(head):
            return at, None
        elif head.startswith(b"\0") and (zeros := len(head) - len(head.lstrip(b"\0"))) < len(head):
            at += zeros
        elif head and not head.strip(b"\0"):
            at += len(head)
        else:
            break
    # A stream that was cut in the middle of a frame, or recorded from the middle on.
    for frame in re.finditer(rb"\xff[\xe2-\xff]", head):
        if found := container(head[frame.start() :]):
            return at + frame.start(), found
    raise AudioError("damaged, or not audio in a format that is read here: convert it with `ffmpeg -i in.m4a out.wav`")


def _tag_size(head: bytes) -> int:
    return sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))


def _mpeg_parts(source: Source, start: int) -> Iterator[Part]:
    """Yields the MP3 files that were joined, each from its count of frames or after its tag."""
    first, at, rest = start, start, b""
    while chunk := source.read(at, _CHUNK):
        window, offset = rest + chunk, at - len(rest)
        for match in _BEGIN.finditer(window):
            end = offset + match.start()
            if end > first:
                yield _mpeg_part(source, first, end)
            if end >= first:
                first = end + (10 + _tag_size(match[0]) if match[0].startswith(b"ID3") else 0)
        at += len(chunk)
        rest = window[-_LONGEST_BEGIN:]
    if first < source.size:
        yield _mpeg_part(source, first, source.size)


def _mpeg_part(source: Source, start: int, end: int) -> Part:
    return Part(Pieces(source, [range(start, end)]), "mp3", seconds=_counted(source.read(start, 256)))


def has_known_length(part: Part) -> bool:
    """Returns whether the length of an MP3 part follows from its number of frames, or from one bit rate throughout.

    libsndfile guesses it from the first frame otherwise, and decodes no more.
    """
    if part.seconds is not None:
        return True
    part.file.seek(0)
    found = first = mpeg_frame(part.file.read(4))
    at = 0
    while first and found and found.kind == first.kind and abs(found.size - first.size) <= _PADDING:
        at += found.size
        part.file.seek(at)
        found = mpeg_frame(part.file.read(4))
    part.file.seek(0)
    return first is not None and (found is None or found.kind != first.kind)


def _counted(head: bytes) -> float | None:
    """Returns the seconds of an MP3 file that states its number of frames, the encoder's delay among them."""
    frame = mpeg_frame(head)
    for mark, at in (b"Xing", 8), (b"Info", 8), (b"VBRI", 14):
        found = head.find(mark, 4, 64)
        stated = mark == b"VBRI" or int.from_bytes(head[found + 4 : found + 8], "big") & 1  # a flag of Xing
        if frame and found > 0 and stated:
            return int.from_bytes(head[found + at : found + at + 4], "big") * frame.samples / frame.rate
    return None


def _ogg_parts(source: Source, start: int) -> Iterator[Part]:
    """Yields the links of a chained Ogg file (RFC 3533): each begins with pages that begin a stream."""
    link, ended, beginning, missing = start, True, False, ""
    counts: dict[bytes, int] = {}
    at = start
    while at < source.size:
        page = source.read(at, 27 + 255)
        size = 27 + page[26] + sum(page[27 : 27 + page[26]]) if len(page) > 27 else 0
        if not page.startswith(b"OggS") or not size:
            at = _next_page(source, at + 1)
            if at < source.size or not ended:  # a tag or zeros may follow the end
                missing = missing or "it has bytes that are no Ogg pages"
            continue
        first, serial, count = bool(page[5] & 2), page[14:18], int.from_bytes(page[18:22], "little")
        if first and not beginning and at > link:
            yield _ogg_part(source, link, at, ended, missing)
            link, missing, counts = at, "", {}
        if serial in counts and count != counts[serial] + 1:
            missing = missing or "pages are missing in the middle"
        if at + size > source.size:
            missing = missing or "its last page is incomplete"
        elif _ogg_checksum(source.read(at, size)) != page[22:26]:
            missing = missing or "pages in the middle are damaged"
        counts[serial], beginning, ended = count, first, bool(page[5] & 4)
        at += size
    yield _ogg_part(source, link, source.size, ended, missing)


def _ogg_part(source: Source, start: int, end: int, ended: bool, missing: str) -> Part:
    missing = missing or ("" if ended else "its end is not marked as such")
    return Part(Pieces(source, [range(start, end)]), "ogg", sndfile=True, missing=missing)


def _ogg_checksum(page: bytes) -> bytes:
    """Returns the checksum of a page without its own (RFC 3533, 6): zlib's polynomial with all bits reversed."""
    reversed_bits = (page[:22] + bytes(4) + page[26:]).translate(_REVERSED)
    checksum = zlib.crc32(reversed_bits, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return checksum.to_bytes(4, "big").translate(_REVERSED)


def _next_page(source: Source, at: int) -> int:
    while chunk := source.read(at, _CHUNK):
        if (found := chunk.find(b"OggS")) >= 0:
            return at + found
        at += max(len(chunk) - 3, 1) if len(chunk) == _CHUNK else len(chunk)
    return source.size


def _wav(source: Source, start: int) -> Part:
    """Returns a WAV file, with a new header if its own has no length, or another name, order or place of it."""
    whole = Part(Pieces(source, [range(start, source.size)]), "wav", sndfile=True)
    head = source.read(start, 12)
    if head[:4] == b"RIFX":
        return whole
    usual = head[:4] != b"BW64"
    riff = int.from_bytes(head[4:8], "little")
    at, form, data, lengths = start + 12, b"", None, b""
    for _ in range(_MAX_CHUNKS):
        chunk = source.read(at, 8)
        if len(chunk) < 8 or (form and data):
            break
        name, size = chunk[:4], int.from_bytes(chunk[4:], "little")
        if name == b"ds64":
            lengths = source.read(at + 8, 16)
        elif name == b"fmt " and size < _HEAD:
            form = source.read(at + 8, size)
        elif name == b"data":
            left = source.size - at - 8
            if size == _STREAMED and len(lengths) == 16 and 0 < int.from_bytes(lengths[8:], "little") < 1 << 62:
                size = int.from_bytes(lengths[8:], "little")
            # A complete file whose data chunk is truly empty counts the chunks after it, which are no audio.
            elif (
                size == _STREAMED or size > max(left, _PLACEHOLDERS) or (not size and not at - start < riff < _STREAMED)
            ):
                size, usual = left, False
            usual = usual and bool(form)
            data = range(at + 8, min(at + 8 + size, source.size))
            missing = size - len(data)
        at += 8 + size + size % 2
    if len(form) < 16 or data is None:
        return whole
    if form[0] in _MPEG_TAGS and form[1] == 0:
        return whole._replace(sndfile=False)  # which goes by an estimate of their lengths
    seconds_missing = ""
    check_size(int.from_bytes(form[4:8], "little"), int.from_bytes(form[2:4], "little"), 0)
    if (rate := int.from_bytes(form[8:12], "little")) and missing / rate > _NEGLIGIBLE:
        seconds_missing = f"its header announces {missing / rate:.1f} s more"
    if usual:
        return whole._replace(missing=seconds_missing)
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, len(data) + len(form) + 72, len(data), 0, 0)
    header = b"RF64\xff\xff\xff\xffWAVE" + sizes + struct.pack("<4sI", b"fmt ", len(form)) + form
    header += b"\0" * (len(form) % 2) + b"data\xff\xff\xff\xff"
    return Part(Pieces(source, [header, data]), "wav", sndfile=True, missing=seconds_missing)


def _lacking_form(source: Source, start: int) -> int:
    """Returns the number of bytes that an AIFF file lacks."""
    size = int.from_bytes(source.read(start + 4, 4), "big")
    return start + 8 + size - source.size if size < _PLACEHOLDERS else 0


def _lacking_sound(source: Source, start: int) -> int:
    """Returns the number of bytes that an AU file lacks; 0 if its size is unknown."""
    head = source.read(start, 12)
    order: Literal["big", "little"] = "big" if head.startswith(b".snd") else "little"
    offset, size = int.from_bytes(head[4:8], order), int.from_bytes(head[8:], order)
    return start + offset + size - source.size if size < _PLACEHOLDERS else 0


def _lacking_caf(source: Source, start: int) -> int:
    """Returns the number of bytes that the sound of a CAF file lacks; 0 if its size is unknown."""
    at = start + 8
    for _ in range(_MAX_CHUNKS):
        chunk = source.read(at, 12)
        size = int.from_bytes(chunk[4:], "big", signed=True)
        at += 12 + size
        if len(chunk) < 12 or size < 0 or chunk.startswith(b"data"):
            return at - source.size if size >= 0 else 0
    return 0


def _lacking_wave64(source: Source, start: int) -> int:
    """Returns the number of bytes that a Wave64 file lacks; 0 if its size is unknown."""
    size = int.from_bytes(source.read(start + 16, 8), "little")
    return start + size - source.size if size < 1 << 62 else 0


def _lacking_boxes(source: Source, start: int) -> int:
    """Returns the number of bytes that the last box of an MP4 file lacks.

    Raises:
        AudioError: Its tables claim more than they can hold, of which FFmpeg would make a list in memory.
    """
    at, samples = start, 0
    for _ in range(_MAX_CHUNKS):
        head = source.read(at, 16)
        name, size = head[4:8], int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        if name in {b"moov", b"moof"}:
            samples += _claimed_samples(source.read(at, min(size or _MAX_INDEX, _MAX_INDEX)))
            if samples > _MAX_SAMPLES:
                raise AudioError(f"damaged: its index claims {samples} packets: get a complete copy")
        if size < 8 or at + size >= source.size:  # 0: to the end of the file
            return at + size - source.size if size >= 8 and name.isalnum() else 0
        at += size
    return 0


def _claimed_samples(index: bytes) -> int:
    """Returns the number of packets that an index claims without a size for each (ISO 14496-12, 8.7.3, 8.8.8)."""
    if index.find(b"cmov", 8, 64) > 0:
        raise AudioError("an index that is compressed: convert it with `ffmpeg -i in.mov out.wav`")
    samples = sum(int.from_bytes(index[match.end() : match.end() + 4], "big") for match in _RUN.finditer(index))
    for table in index.split(b"stbl")[1:]:
        constant, times = _CONSTANT_SIZE.search(table), _TIMES.search(table)
        # Of PCM, whose every sample lasts one tick, FFmpeg lists chunks.
        if constant and not (times and times[0].endswith(b"\0\0\0\1")):
            samples += int.from_bytes(constant[0][-4:], "big")
    return samples


def _lacking_segment(source: Source, start: int) -> int:
    """Returns the number of bytes that the segment of a Matroska file lacks (RFC 8794); 0 if its size is unknown."""
    at = start
    for _ in range(2):
        name, width = _vint(source.read(at, 8), keep_mark=True)
        size, size_width = _vint(source.read(at + width, 8))
        at += width + size_width
        if name == 0x18538067:
            unknown = size == (1 << 7 * size_width) - 1
            return 0 if unknown else at + size - source.size
        at += size
    return 0


def _vint(data: bytes, keep_mark: bool = False) -> tuple[int, int]:
    """Returns a number of variable length and its bytes."""
    width = 9 - data[0].bit_length() if data and data[0] else 8
    value = int.from_bytes(data[:width], "big")
    return (value if keep_mark else value & ((1 << 7 * width) - 1)), width


_LACKING = {
    "aiff": _lacking_form,
    "au": _lacking_sound,
    "caf": _lacking_caf,
    "matroska": _lacking_segment,
    "mov": _lacking_boxes,
    "w64": _lacking_wave64,
}
