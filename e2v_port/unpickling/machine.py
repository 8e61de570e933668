"""Reads a pickle without being able to call anything but the functions it is given.

A pickle is a program for a machine with a stack. Python's own machine imports whatever the program names. This one
never imports: a function of its user looks up a name, and returns one of the user's own functions or a placeholder. It
makes dicts, lists, tuples, texts and numbers, and sets no attribute of anything. The time and the memory that a small
file can be made to take are limited.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Function", "Placeholder", "run"]

MOST_STEPS = 5_000_000  # a tensor takes about 30
MOST_BYTES = 1 << 27
LONGEST_INTEGER = 255  # bytes
LARGEST_KEY = 1 << 60  # larger integers can be chosen to have equal hashes


@dataclass(frozen=True, eq=False)
class Function:
    """A function that a pickle may call.

    Attributes:
        call: Called with the arguments of the pickle, which can be anything; TypeError or ValueError refuse them.
    """

    call: Callable[..., Any]


class Placeholder:
    """A class or function that is not looked up, what it would have returned, or an object of it.

    Attributes:
        name: Name in the pickle.
        state: Attributes of the object, as the pickle sets them.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: Any = None


def run(program: NDArray[np.uint8], find: Callable[[str, str], Any], load: Callable[[Any], Any]) -> Any:
    """Runs a pickle and returns what it makes.

    Args:
        program: The pickle, of protocol 2 to 5.
        find: Called with the module and the name of each global. Returns a `Function`, a `Placeholder`, or any value.
        load: Called with each persistent id. Returns any value.

    Raises:
        ValueError: It is damaged, too large, or does what no pickle of torch.save does.
    """
    if len(program) > MOST_BYTES:
        raise ValueError(f"its pickle has {len(program)} bytes: more than {MOST_BYTES} are not read")
    machine = _Machine(program.tobytes(), find, load)
    try:
        return machine.run()
    except (AttributeError, LookupError, RecursionError, TypeError, struct.error) as error:
        raise ValueError(f"its pickle is damaged at byte {machine.at} ({error})") from error


class _Machine:
    """The stack, the memo and the position in the program."""

    def __init__(self, program: bytes, find: Callable[[str, str], Any], load: Callable[[Any], Any]) -> None:
        self.program = program
        self.find = find
        self.load = load
        self.at = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # one stack for each mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MOST_STEPS):
            code = self.program[self.at]
            self.at += 1
            if code == _STOP:
                return self.stack.pop()
            if code not in _OPERATIONS:
                raise ValueError(f"its pickle is damaged, or not one of torch.save: operation {code} at {self.at - 1}")
            _OPERATIONS[code](self)
        raise ValueError(f"its pickle takes more than {MOST_STEPS} steps")

    def take(self, size: int) -> bytes:
        """Returns the next bytes of the program."""
        start, self.at = self.at, self.at + size
        if self.at > len(self.program):
            raise ValueError("its pickle ends in the middle of something")
        return self.program[start : self.at]

    def number(self, layout: str) -> Any:
        """Returns the next number of the program."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        """Returns the program's text up to the end of the line."""
        text = self.take(max(0, self.program.find(b"\n", self.at) + 1 - self.at))
        if not text:
            raise ValueError("its pickle ends in the middle of a line")
        return text[:-1].decode()

    def above(self) -> list[Any]:
        """Returns everything since the last mark, and takes it from the stack."""
        found = self.stack
        self.stack = self.below.pop()
        return found

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def text(self, size: int) -> None:
        self.push(str(self.take(size), "utf-8", "surrogatepass"))

    def integer(self, size: int) -> None:
        if size > LONGEST_INTEGER:
            raise ValueError(f"its pickle has an integer of {size} bytes")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def tuple(self, size: int) -> None:
        values = tuple(self.stack[len(self.stack) - size :]) if size else ()
        if len(values) != size:
            raise ValueError("its pickle takes more from the stack than is there")
        if size:
            del self.stack[-size:]
        self.push(values)

    def frozenset(self) -> None:
        self.above()
        self.push(Placeholder("frozenset"))

    def extend(self, values: list[Any]) -> None:
        """Appends to the list, or to the set, which is a placeholder, on the stack."""
        target = self.stack[-1]
        if type(target) is list:
            target.extend(values)
        elif type(target) is not Placeholder:
            raise ValueError(f"its pickle appends to a {type(target).__name__}")

    def assign(self, values: list[Any]) -> None:
        """Puts keys and values, one after the other, into the dict on the stack."""
        target = self.stack[-1]
        if type(target) is dict:
            for key, value in zip(values[::2], values[1::2], strict=True):
                _check_key(key)
                target[key] = value
        elif type(target) is not Placeholder:
            raise ValueError(f"its pickle sets an item of a {type(target).__name__}")

    def call(self) -> None:
        """Calls a function of the user's; objects of placeholders are placeholders."""
        arguments = self.stack.pop()
        function = self.stack.pop()
        if type(arguments) is not tuple:
            raise ValueError("its pickle calls something without a tuple of arguments")
        if type(function) is Function:
            self.push(function.call(*arguments))
        elif type(function) is Placeholder:
            self.push(Placeholder(function.name))
        else:
            raise ValueError(f"its pickle calls a {type(function).__name__}")

    def call_by_name(self) -> None:
        self.stack.pop()  # arguments by name, which only a placeholder can take
        if type(self.stack[-2]) is not Placeholder:
            raise ValueError("its pickle calls something with arguments by name")
        self.call()

    def build(self) -> None:
        """Keeps the attributes of a placeholder; those of an OrderedDict, such as _metadata, are dropped."""
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is Placeholder:
            target.state = state
        elif type(target) is not dict:
            raise ValueError(f"its pickle sets attributes of a {type(target).__name__}")

    def name_from_stack(self) -> None:
        name = self.stack.pop()
        module = self.stack.pop()
        if type(module) is not str or type(name) is not str:
            raise ValueError("its pickle names a global by something that is no text")
        self.push(self.find(module, name))


def _check_key(key: Any, depth: int = 0) -> None:
    """Refuses keys that take long to hash, or crash Python, as a tuple in a tuple in a tuple ... does."""
    if type(key) is tuple:
        if len(key) > 100 or depth > 4:
            raise ValueError("its pickle has a key of too many parts")
        for part in key:
            _check_key(part, depth + 1)
    elif type(key) is int and not -LARGEST_KEY < key < LARGEST_KEY:
        raise ValueError("its pickle has a key that is a huge integer")
    elif type(key) in {dict, list}:
        raise ValueError(f"its pickle has a key that is a {type(key).__name__}")


_STOP = ord(".")
# As pickletools names and describes them. Not among them: those of protocols 0 and 1, which torch.save cannot use, the
# registry of extensions, and buffers outside the file.
_OPERATIONS: dict[int, Callable[[_Machine], object]] = {
    0x80: lambda machine: machine.number("<B"),  # PROTO
    0x95: lambda machine: machine.number("<Q"),  # FRAME
    ord("("): _Machine.mark,  # MARK
    ord("0"): lambda machine: machine.stack.pop(),  # POP
    ord("1"): lambda machine: machine.above(),  # POP_MARK
    ord("2"): lambda machine: machine.push(machine.stack[-1]),  # DUP
    ord("N"): lambda machine: machine.push(None),  # NONE
    0x88: lambda machine: machine.push(True),  # NEWTRUE
    0x89: lambda machine: machine.push(False),  # NEWFALSE
    ord("J"): lambda machine: machine.push(machine.number("<i")),  # BININT
    ord("K"): lambda machine: machine.push(machine.number("<B")),  # BININT1
    ord("M"): lambda machine: machine.push(machine.number("<H")),  # BININT2
    0x8A: lambda machine: machine.integer(machine.number("<B")),  # LONG1
    0x8B: lambda machine: machine.integer(machine.number("<I")),  # LONG4
    ord("G"): lambda machine: machine.push(machine.number(">d")),  # BINFLOAT
    0x8C: lambda machine: machine.text(machine.number("<B")),  # SHORT_BINUNICODE
    ord("X"): lambda machine: machine.text(machine.number("<I")),  # BINUNICODE
    0x8D: lambda machine: machine.text(machine.number("<Q")),  # BINUNICODE8
    ord("C"): lambda machine: machine.push(machine.take(machine.number("<B"))),  # SHORT_BINBYTES
    ord("B"): lambda machine: machine.push(machine.take(machine.number("<I"))),  # BINBYTES
    0x8E: lambda machine: machine.push(machine.take(machine.number("<Q"))),  # BINBYTES8
    0x96: lambda machine: machine.push(machine.take(machine.number("<Q"))),  # BYTEARRAY8
    ord(")"): lambda machine: machine.tuple(0),  # EMPTY_TUPLE
    0x85: lambda machine: machine.tuple(1),  # TUPLE1
    0x86: lambda machine: machine.tuple(2),  # TUPLE2
    0x87: lambda machine: machine.tuple(3),  # TUPLE3
    ord("t"): lambda machine: machine.push(tuple(machine.above())),  # TUPLE
    ord("]"): lambda machine: machine.push([]),  # EMPTY_LIST
    ord("a"): lambda machine: machine.extend([machine.stack.pop()]),  # APPEND
    ord("e"): lambda machine: machine.extend(machine.above()),  # APPENDS
    ord("}"): lambda machine: machine.push({}),  # EMPTY_DICT
    ord("s"): lambda machine: machine.assign([machine.stack.pop(-2), machine.stack.pop()]),  # SETITEM
    ord("u"): lambda machine: machine.assign(machine.above()),  # SETITEMS
    0x8F: lambda machine: machine.push(Placeholder("set")),  # EMPTY_SET
    0x90: lambda machine: machine.extend(machine.above()),  # ADDITEMS
    0x91: _Machine.frozenset,  # FROZENSET
    ord("q"): lambda machine: machine.memo.__setitem__(machine.number("<B"), machine.stack[-1]),  # BINPUT
    ord("r"): lambda machine: machine.memo.__setitem__(machine.number("<I"), machine.stack[-1]),  # LONG_BINPUT
    0x94: lambda machine: machine.memo.__setitem__(len(machine.memo), machine.stack[-1]),  # MEMOIZE
    ord("h"): lambda machine: machine.push(machine.memo[machine.number("<B")]),  # BINGET
    ord("j"): lambda machine: machine.push(machine.memo[machine.number("<I")]),  # LONG_BINGET
    ord("c"): lambda machine: machine.push(machine.find(machine.line(), machine.line())),  # GLOBAL
    0x93: _Machine.name_from_stack,  # STACK_GLOBAL
    ord("R"): _Machine.call,  # REDUCE
    0x81: _Machine.call,  # NEWOBJ
    0x92: _Machine.call_by_name,  # NEWOBJ_EX
    ord("b"): _Machine.build,  # BUILD
    ord("Q"): lambda machine: machine.push(machine.load(machine.stack.pop())),  # BINPERSID
}
