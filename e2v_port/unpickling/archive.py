"""The members of a zip file whose bytes can be used where they lie: stored, not compressed.

The standard library reads any zip file, with its whole table of contents in memory and each member as a copy. This one
maps the file, limits the table, and refuses what torch.save never writes: members of the same name, members that
overlap, and data that reaches into the table.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2v_port.unpickling.tensors import Storage

__all__ = ["Archive"]

MOST_MEMBERS = 100_000  # one for each storage; the optimizer of a model has three times its tensors
_END = struct.Struct("<4s4H2LH")  # signature, 2 disks, 2 counts, bytes and position of the table, bytes of a comment
_END_64 = struct.Struct(
    "<4sQ2H2L4Q"
)  # signature, bytes, 2 versions, 2 disks, 2 counts, bytes and position of the table
_LOCATOR_64 = struct.Struct("<4sLQL")  # signature, disk, position of the record above, disks
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 0xFFFF
_IN_EXTRA = 0xFFFFFFFF  # instead of a number that has 64 bits


@dataclass(slots=True)
class _Member:
    """A member, as the table of contents describes it; `limit` is where the next one starts."""

    name: bytes
    flags: int
    method: int
    checksum: int
    packed: int
    size: int
    position: int
    limit: int = 0


class Archive:
    """The table of contents of a zip file.

    Attributes:
        names: Names of the members, in order.

    Raises:
        ValueError: It is not a zip file, or is damaged.
    """

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data = data.data
        self._bytes = data
        try:
            self._members = self._table(*self._end())
        except struct.error as error:
            raise ValueError(f"its table of contents is damaged ({error})") from error
        self.names = list(self._members)

    def _end(self) -> tuple[int, int, int]:
        """Returns the number of members, and the start and end of the table of contents."""
        size = len(self._data)
        tail = max(0, size - _END.size - _LONGEST_COMMENT)
        at = bytes(self._data[tail:]).rfind(b"PK\5\6")
        if at < 0 or tail + at + _END.size > size:
            raise ValueError("it is not a zip file, or its end is missing: is the download complete?")
        at += tail
        _, disk, _, _, count, length, start, comment = _END.unpack_from(self._data, at)
        if at + _END.size + comment != size:
            raise ValueError("its end is damaged: is the download complete?")
        if count == 0xFFFF or _IN_EXTRA in (length, start):
            if at < _LOCATOR_64.size:
                raise ValueError("its end is damaged")
            signature, _, record, _ = _LOCATOR_64.unpack_from(self._data, at - _LOCATOR_64.size)
            if signature != b"PK\6\7" or record + _END_64.size > at:
                raise ValueError("its end is damaged")
            signature, _, _, _, disk, _, _, count, length, start = _END_64.unpack_from(self._data, record)
            if signature != b"PK\6\6":
                raise ValueError("its end is damaged")
            at = record
        if disk or count > MOST_MEMBERS or start + length > at:
            raise ValueError(f"its table of contents is damaged, or lists more than {MOST_MEMBERS} members")
        return count, start, start + length

    def _table(self, count: int, start: int, end: int) -> dict[str, _Member]:
        found: dict[str, _Member] = {}
        at = start
        for _ in range(count):
            member, at = self._entry(at, end)
            name = member.name.decode("utf-8", "surrogateescape")
            if name in found:
                raise ValueError(f"it has two members named {name!r}")
            found[name] = member
        if at != end:
            raise ValueError("its table of contents does not end where it should")
        following = start
        for member in sorted(found.values(), key=lambda member: member.position, reverse=True):
            member.limit = following
            if member.position + _LOCAL.size + len(member.name) + member.packed > following:
                raise ValueError(f"its member {member.name.decode('utf-8', 'replace')!r} overlaps with another one")
            following = member.position
        return found

    def _entry(self, at: int, end: int) -> tuple[_Member, int]:
        """Returns the member at a position in the table of contents, and the next position."""
        values = _ENTRY.unpack_from(self._data, at)
        signature, _, _, flags, method, _, _, checksum, packed, size, name, extra, comment, _, _, _, position = values
        after = at + _ENTRY.size + name + extra + comment
        if signature != b"PK\1\2" or after > end:
            raise ValueError("its table of contents is damaged")
        at += _ENTRY.size
        fields = self._data[at + name : at + name + extra]
        numbers = iter(_extra_64(fields))
        # Those that do not fit into 32 bits follow one another in this order.
        size, packed, position = (
            next(numbers, _IN_EXTRA) if number == _IN_EXTRA else number for number in (size, packed, position)
        )
        return _Member(bytes(self._data[at : at + name]), flags, method, checksum, packed, size, position), after

    def member(self, name: str) -> Storage:
        """Returns the bytes of a member, where they lie in the file.

        Raises:
            ValueError: There is none of this name, or it is compressed, encrypted or damaged.
        """
        member = self._members.get(name)
        if member is None:
            raise ValueError(f"it has no member {name!r}")
        if member.method or member.flags & 1:
            raise ValueError(f"its member {name!r} is compressed or encrypted, which torch.save never does")
        signature, *_, length, extra = _LOCAL.unpack_from(self._data, member.position)
        start = member.position + _LOCAL.size
        own = bytes(self._data[start : start + length])
        start += length + extra
        if (
            signature != b"PK\3\4"
            or own != member.name
            or member.packed != member.size
            or start + member.size > member.limit
        ):
            raise ValueError(f"its member {name!r} is damaged")
        return Storage(self._bytes[start : start + member.size], name, member.checksum)


def _extra_64(fields: memoryview) -> tuple[int, ...]:
    """Returns the numbers of 64 bits among the extra fields of an entry."""
    at = 0
    while at + 4 <= len(fields):
        kind, length = struct.unpack_from("<2H", fields, at)
        if kind == 1:
            number = min(length, len(fields) - at - 4) // 8
            return struct.unpack_from(f"<{number}Q", fields, at + 4)
        at += 4 + length
    return ()
