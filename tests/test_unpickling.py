"""Files of torch.save read without torch: equal to torch.load bit for bit, and harmless whatever is in them."""

import io
import os
import pickle
import re
import struct
import time
import tracemalloc
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from e2v_port.checkpoints.checkpoint import local
from e2v_port.converters import checkpoint, wav2small, wavlm, whisper
from e2v_port.errors import CheckpointError
from e2v_port.unpickling import archive, machine, torch_save
from e2v_port.unpickling.machine import Placeholder
from e2v_port.unpickling.tensors import Tensor

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
)
PROTOCOLS = (2, 3, 4, 5)


def saved(value: Any, path: Path, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def read(path: Path, *placeholders: str) -> Any:
    return torch_save.read(path, placeholders)


def assert_same(found: Any, wanted: Any) -> None:
    """Compares with what torch.load returned, bit for bit."""
    if isinstance(wanted, torch.Tensor):
        wide = wanted.detach().float() if wanted.dtype == torch.bfloat16 else wanted.detach()
        assert isinstance(found, Tensor)
        assert found.dtype.name == str(wanted.dtype)
        assert (found.shape, found.strides) == (tuple(wanted.shape), wanted.stride())
        numbers = found.numpy()
        assert (numbers.dtype, numbers.shape) == (wide.numpy().dtype, wide.shape)
        assert numbers.tobytes() == wide.numpy().tobytes()
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for name, value in wanted.items():
            assert_same(found[name], value)
    elif isinstance(wanted, list | tuple):
        assert type(found) is type(wanted)
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    else:
        assert (type(found), found) == (type(wanted), wanted)


def tensors() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    base = torch.randn(6, 8, generator=draw)
    state = {str(dtype): (100 * torch.randn(3, 5, generator=draw)).abs().to(dtype) for dtype in DTYPES}
    state |= {
        "whole": base,
        "rows": base[2:4],
        "every second": base[1:5, ::2],
        "transposed": base.T,
        "one number": base[3, 4],
        "no rows": base[:0],
        "repeated": base[0].expand(3, 8),
        "parameter": torch.nn.Parameter(base[1]),
        "frozen": torch.nn.Parameter(base[2], requires_grad=False),
        "real part": torch.view_as_real(torch.randn(4, dtype=torch.complex64, generator=draw))[..., 0],
        "empty": torch.empty(0),
        "empty matrix": torch.empty(0, 7),
        "scalar": torch.tensor(3.5),
    }
    state["with an attribute"] = torch.ones(2)
    state["with an attribute"].note = "of the trainer"  # type: ignore[attr-defined]
    return state


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_equal_those_of_torch(tmp_path: Path, protocol: int) -> None:
    path = saved(tensors(), tmp_path / "a.pt", pickle_protocol=protocol)
    assert_same(read(path), torch.load(path, weights_only=False))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tables_and_values_equal_those_of_torch(tmp_path: Path, protocol: int) -> None:
    values = [None, True, False, 0, 255, 256, 65535, 65536, -1, 1 << 31, -(1 << 63), 1 << 900, 0.1, -float("inf")]
    texts = ["", "weight", "生气", "\ud800", "x" * 300, "y" * 70_000]
    table = {"values": values, "texts": texts, "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, (2, [3])), tuple(range(9))]}
    keys = {1: "a", None: "b", 2.5: "c", (1, "x"): "d"}
    path = saved({"a": {"b": table}, "keys": keys, "again": table}, tmp_path / "a.pt", pickle_protocol=protocol)
    found = read(path)
    assert_same(found, torch.load(path, weights_only=False))
    assert found["again"] is found["a"]["b"]


def test_a_state_dict_has_no_attributes_left(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    state = module.state_dict()
    assert state._metadata  # type: ignore[attr-defined]
    path = saved(state, tmp_path / "a.pt")
    assert_same(read(path), dict(torch.load(path)))


def test_an_optimizer_is_read(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = saved(optimizer.state_dict(), tmp_path / "a.pt")
    assert_same(read(path), torch.load(path))


def test_views_of_one_storage_share_it(tmp_path: Path) -> None:
    base = torch.randn(10)
    found = read(saved({"a": base, "b": base[2:5], "c": torch.randn(10)}, tmp_path / "a.pt"))
    a, b, c = (tensor.numpy() for tensor in found.values())
    assert np.shares_memory(a, b)
    assert not np.shares_memory(a, c)
    assert not a.flags.writeable


LEFT_OVERS: dict[str, Callable[[], Any]] = {
    "set": lambda: {1, 2},
    "frozenset": lambda: frozenset([1]),
    "complex": lambda: 1j,
    "bytearray": lambda: bytearray(b"q"),
    "Counter": lambda: Counter("abc"),
    "Size": lambda: torch.Size([1, 2]),
    "device": lambda: torch.device("cpu"),
    "ordered": lambda: OrderedDict(a=1),
    "bytes": lambda: b"xyz",
    "dtype": lambda: torch.float16,
    "layout": lambda: torch.strided,
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", LEFT_OVERS)
def test_values_beside_the_tensors_do_no_harm(tmp_path: Path, kind: str, protocol: int) -> None:
    value = LEFT_OVERS[kind]()
    path = saved({"value": value, "list": [value], "x": torch.ones(2)}, tmp_path / "a.pt", pickle_protocol=protocol)
    assert_same(read(path)["x"], torch.ones(2))


def test_left_overs_are_not_looked_up(tmp_path: Path) -> None:
    """Neither a class that is not installed nor the default of a defaultdict is needed."""
    path = saved({"a": defaultdict(list, b=[1])}, tmp_path / "a.pt")
    found = read(path, "collections.defaultdict")["a"]
    assert isinstance(found, Placeholder)
    assert found.name == "collections.defaultdict"
    with pytest.raises(torch_save.UnsafeFile, match=r"^collections\.defaultdict$"):
        read(path)


class OfItsOwn(torch.Tensor):
    """A tensor that torch.load could only make by calling this class."""


def negated() -> torch.Tensor:
    """A tensor whose numbers have the other sign in the file."""
    numbers = torch.complex(torch.ones(2), torch.ones(2)).conj().imag
    assert numbers.is_neg()
    return numbers


NO_TENSORS: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "sparse": (lambda: torch.eye(2).to_sparse(), "a sparse tensor"),
    "sparse rows": (lambda: torch.eye(2).to_sparse_csr(), "a sparse tensor"),
    "quantized": (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "a quantized tensor"),
    "without data": (lambda: torch.empty(9, device="meta"), "larger than its data"),
    "negated": (negated, "still to be computed"),
    "float8": (lambda: torch.ones(2).to(torch.float8_e4m3fn), "a tensor of torch.float8_e4m3fn"),
    "complex": (lambda: torch.ones(2, dtype=torch.complex64), "a tensor of torch.complex64"),
    "integers": (lambda: torch.ones(2, dtype=torch.uint16), "a tensor of torch.uint16"),
    "repeated": (lambda: torch.ones(1).expand(1 << 50), "larger than its data"),
}


@pytest.mark.filterwarnings("ignore:.*(Sparse|quantize|beta).*")
@pytest.mark.parametrize("kind", NO_TENSORS)
def test_a_tensor_that_is_not_made_of_plain_numbers_is_no_weight(tmp_path: Path, kind: str) -> None:
    make, words = NO_TENSORS[kind]
    path = saved({"x": make(), "y": torch.ones(2)}, tmp_path / "model.pt")
    assert_same(read(path)["y"], torch.ones(2))
    with pytest.raises(CheckpointError, match=rf"holds entries that are not weights: x is .*{words}"):
        checkpoint.extract(local(path), tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_a_tensor_of_an_unknown_class_is_refused_by_name(tmp_path: Path) -> None:
    path = saved({"x": torch.ones(2).as_subclass(OfItsOwn)}, tmp_path / "a.pt")
    with pytest.raises(torch_save.UnsafeFile, match=re.escape(f"{__name__}.OfItsOwn")):
        read(path)


def test_every_unsafe_name_is_listed(tmp_path: Path) -> None:
    class Calls:
        def __init__(self, function: Any) -> None:
            self.function = function

        def __reduce__(self) -> Any:
            return self.function, ("1",)

    path = saved({"a": Calls(eval), "b": [Calls(os.system)], "c": Calls(exec)}, tmp_path / "a.pt")
    with pytest.raises(torch_save.UnsafeFile) as caught:
        read(path, "argparse.")
    assert caught.value.names == ["builtins.eval", "builtins.exec", f"{os.system.__module__}.system"]


# --- archives that torch.save does not write


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def archived(path: Path, content: dict[str, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, data in content.items():
            file.writestr(name, data)
    return path


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return saved({"x": torch.arange(6.0), "y": torch.ones(3)}, tmp_path / "a.pt")


def with_member(name: str, data: bytes) -> Callable[[Path], Any]:
    return lambda path: archived(path, {**members(path), f"{path.stem}/{name}": data})


def compressed(path: Path) -> None:
    archived(path, members(path), compression=zipfile.ZIP_DEFLATED)


def bomb(path: Path) -> None:
    """64 MB of zeros in 64 kB."""
    content = members(path)
    del content["a/data/1"]
    archived(path, content)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("a/data/1", bytes(1 << 26), compress_type=zipfile.ZIP_DEFLATED)


def twice(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("a/data/0", bytes(24))


def patched(path: Path, at: Callable[[bytes], int], data: bytes) -> None:
    content = path.read_bytes()
    position = at(content)
    path.write_bytes(content[:position] + data + content[position + len(data) :])


def entry(name: bytes, field: int) -> Callable[[bytes], int]:
    """The position of a field of a member in the table of contents."""
    return lambda content: content.rindex(name) - 46 + field


STORAGE = b"a/data/0"
HUGE = struct.pack("<I", 0xFFFFFFF0)
ARCHIVES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "compressed": (compressed, "compressed or encrypted"),
    "a bomb": (bomb, "'a/data/1' is compressed or encrypted"),
    "encrypted": (lambda path: patched(path, entry(STORAGE, 8), b"\1\0"), "compressed or encrypted"),
    "two members of one name": (twice, "two members named 'a/data/0'"),
    "members that overlap": (
        lambda path: patched(path, entry(STORAGE, 20), struct.pack("<2I", 1 << 10, 1 << 10)),
        "overlaps with another one",
    ),
    "a member of two sizes": (lambda path: patched(path, entry(STORAGE, 24), b"\7"), "'a/data/0' is damaged"),
    "larger than the file": (lambda path: patched(path, entry(STORAGE, 20), 2 * HUGE), "overlaps"),
    "beyond the file": (lambda path: patched(path, entry(STORAGE, 42), HUGE), "overlaps"),
    "64 bits that are missing": (lambda path: patched(path, entry(STORAGE, 42), b"\xff" * 4), "overlaps"),
    "two names for one member": (
        lambda path: patched(path, lambda content: content.index(STORAGE), b"a/data/9"),
        "'a/data/0' is damaged",
    ),
    "no storage": (
        lambda path: archived(path, {k: v for k, v in members(path).items() if k != "a/data/1"}),
        "has no member 'a/data/1'",
    ),
    "a storage that is too short": (with_member("data/0", bytes(23)), "has 23 bytes for 6 numbers of torch.float32"),
    "no pickle": (lambda path: archived(path, {"a/data/0": b""}), "has no member 'a/data.pkl'"),
    "no members": (lambda path: archived(path, {}), "has no member '/data.pkl'"),
    "big-endian": (with_member("byteorder", b"big"), "big-endian machine"),
    "a later version": (with_member("version", b"11\n"), "its format is version"),
    "no version": (with_member("version", b"new"), "its format is version"),
    "a program": (with_member("constants.pkl", b"\x80\x02)."), "torch.jit.save: save the state_dict"),
    "cut off": (lambda path: os.truncate(path, path.stat().st_size - 1), "is the download complete"),
    "half": (lambda path: os.truncate(path, path.stat().st_size // 2), "is the download complete"),
    "empty": (lambda path: os.truncate(path, 0), "not a zip file"),
    "more at the start": (lambda path: path.write_bytes(b"#!/bin/sh\n" + path.read_bytes()), "table of contents is"),
    "fewer entries": (
        lambda path: patched(path, lambda content: content.rindex(b"PK\5\6") + 10, b"\1\0"),
        "does not end where it should",
    ),
    "more entries": (
        lambda path: patched(path, lambda content: content.rindex(b"PK\5\6") + 10, b"\xf0\xf0"),
        "table of contents is damaged",
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_that_torch_does_not_write_is_refused(whole: Path, kind: str) -> None:
    change, words = ARCHIVES[kind]
    change(whole)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.extract(local(whole), whole.with_suffix(".npz"))
    message = str(caught.value)
    assert words in message
    assert message.startswith(f"{whole} is damaged or not a PyTorch checkpoint (")
    assert message.isprintable()
    assert not whole.with_suffix(".npz").exists()


def test_members_that_are_not_used_may_be_anything(whole: Path) -> None:
    """Nothing is extracted, so that no path can lead anywhere."""
    bomb_size = whole.stat().st_size
    content = members(whole) | {"../../etc/passwd": b"x", "a/data/../../x": b"y", "/abs": b"z"}
    with zipfile.ZipFile(whole, "w") as file:
        for name, data in content.items():
            file.writestr(name, data)
        file.writestr("a/zeros", bytes(1 << 26), compress_type=zipfile.ZIP_DEFLATED)
    assert whole.stat().st_size < bomb_size + (1 << 18)
    tracemalloc.start()
    try:
        assert_same(read(whole), {"x": torch.arange(6.0), "y": torch.ones(3)})
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_table_of_contents_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved([torch.ones(1) for _ in range(50)], tmp_path / "a.pt")
    assert len(read(path)) == 50
    monkeypatch.setattr(archive, "MOST_MEMBERS", 40)
    with pytest.raises(ValueError, match="more than 40 members"):
        read(path)


def test_archives_beyond_4_gigabytes_are_read(tmp_path: Path) -> None:
    """A file with a hole, whose second storage lies beyond what 32 bits can count."""
    path = tmp_path / "a.pt"
    small = saved({"x": torch.zeros(3), "y": torch.arange(5.0)}, tmp_path / "small.pt")
    parts = members(small)
    size = 1 << 32
    pickled = parts["small/data.pkl"].replace(b"K\x03t", b"\x8a\x05" + (size // 4).to_bytes(5, "little") + b"t", 1)
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("a/data.pkl", pickled)
        entry = zipfile.ZipInfo("a/data/0")
        entry.header_offset = file.tell()
        entry.file_size = entry.compress_size = size
        entry.CRC = 0
        file.write(entry.FileHeader(zip64=True))
        file.seek(size, os.SEEK_CUR)
        zipped.filelist.append(entry)
        zipped.start_dir = file.tell()
        zipped.writestr("a/data/1", parts["small/data/1"])
    assert path.stat().st_size > size
    found = read(path)
    assert found["x"].storage.data.size == size
    assert_same(found["y"], torch.arange(5.0))


def test_a_flipped_byte_of_a_weight_is_noticed(whole: Path) -> None:
    content = whole.read_bytes()
    at = content.index(torch.arange(6.0).numpy().tobytes())
    whole.write_bytes(content[: at + 5] + bytes([content[at + 5] ^ 1]) + content[at + 6 :])
    with pytest.raises(CheckpointError, match=r"x is damaged .*'a/data/0' does not have its checksum"):
        checkpoint.extract(local(whole), whole.with_suffix(".npz"))
    assert not whole.with_suffix(".npz").exists()


def test_a_file_saved_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved({"x": torch.ones(3)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(read(path), {"x": torch.ones(3)})


# --- pickles that torch.save does not write


def pickled(path: Path, program: bytes) -> Path:
    """An archive with this pickle and a storage of eight numbers."""
    return archived(path, {"a/data.pkl": program, "a/version": b"3\n", "a/data/0": np.arange(8, dtype="<f4").tobytes()})


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a\x09" + data


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(count: int = 8, key: str = "0", kind: str = "torch\nFloatStorage") -> bytes:
    return (
        b"(" + text("storage") + b"c" + kind.encode() + b"\n" + text(key) + text("cpu") + number(count) + b"tQ"
    )  # a persistent id


def tensor(
    offset: int, shape: tuple[int, ...], strides: tuple[int, ...], name: str = "_rebuild_tensor_v2", stored: bytes = b""
) -> bytes:
    arguments = (stored or storage()) + number(offset) + numbers(shape) + numbers(strides) + b"\x89N"
    return f"ctorch._utils\n{name}\n".encode() + b"(" + arguments + b"tR"


def table(value: bytes) -> bytes:
    return b"\x80\x02}" + text("x") + value + b"s."


def test_a_view_inside_its_storage_is_read(tmp_path: Path) -> None:
    path = pickled(tmp_path / "a.pt", table(tensor(1, (2, 2), (3, 2))))
    assert_same(read(path), {"x": torch.arange(8.0).as_strided((2, 2), (3, 2), 1)})
    assert_same(read(path), torch.load(path))


VIEWS: dict[str, bytes] = {
    "too long": tensor(0, (9,), (1,)),
    "beyond the end": tensor(7, (2,), (1,)),
    "stride beyond the end": tensor(0, (2, 2), (8, 1)),
    "offset beyond the end": tensor(9, (0,), (1,)),
    "negative offset": tensor(-1, (2,), (1,)),
    "negative stride": tensor(4, (2,), (-1,)),
    "negative size": tensor(0, (-1,), (1,)),
    "huge offset": tensor(1 << 62, (1,), (1,)),
    "huge stride": tensor(0, (2,), (1 << 62,)),
    "huge sizes": tensor(0, (1 << 40, 1 << 40), (1, 1)),
    "huge and empty": tensor(0, (0, 1 << 62), (1, 1)),
    "more strides": tensor(0, (2,), (1, 1)),
    "too many axes": tensor(0, (1,) * 65, (1,) * 65),
    "longer storage": tensor(0, (2,), (1,), stored=storage(9)),
    "negative storage": tensor(0, (2,), (1,), stored=storage(-1)),
    "wider storage": tensor(0, (2,), (1,), stored=storage(8, kind="torch\nDoubleStorage")),
    "no such storage": tensor(0, (2,), (1,), stored=storage(key="../data.pkl")),
    "another type": tensor(0, (2,), (1,), stored=storage(kind="torch\nSize")),
    "text for a storage": tensor(0, (2,), (1,), stored=text("storage")),
    "no arguments": b"ctorch._utils\n_rebuild_tensor_v2\n)R",
    "text for a size": b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage() + number(0) + text("1") * 2 + b"\x89NtR",
    "a truth for a size": b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage() + number(0) + b"\x88\x85\x88\x85\x89NtR",
    "a parameter of text": b"ctorch._utils\n_rebuild_parameter\n(" + text("x") + b"\x88NtR",
}


@pytest.mark.parametrize("kind", VIEWS)
def test_a_view_that_its_storage_does_not_have_is_refused(tmp_path: Path, kind: str) -> None:
    path = pickled(tmp_path / "a.pt", table(VIEWS[kind]))
    with pytest.raises(CheckpointError, match="damaged or not a PyTorch checkpoint") as caught:
        checkpoint.extract(local(path), tmp_path / "out.npz")
    assert str(caught.value).isprintable()


def test_an_axis_of_one_may_have_any_stride(tmp_path: Path) -> None:
    path = pickled(tmp_path / "a.pt", table(tensor(0, (1, 3), (1 << 62, 1))))
    np.testing.assert_array_equal(read(path)["x"].numpy(), [[0, 1, 2]])


NESTED = b"\x80\x02)" + b"\x85" * 1_000_000
PROGRAMS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "damaged"),
    "no end": (b"\x80\x02}", "damaged"),
    "nothing on the stack": (b"\x80\x02.", "damaged"),
    "a mark that is missing": (b"\x80\x02t.", "damaged"),
    "a value that was not kept": (b"\x80\x02h\x07.", "damaged"),
    "a long text": (b"\x80\x02X\xff\xff\xff\xff.", "ends in the middle"),
    "longer text": (b"\x80\x02\x8d" + b"\xff" * 8 + b".", "ends in the middle"),
    "a long integer": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "an integer of"),
    "text that is none": (b"\x80\x02X\1\0\0\0\xff.", "decode"),
    "a name without end": (b"\x80\x02cos", "ends in the middle of a line"),
    "old operations": (b"I1\n.", "operation 73"),
    "an extension": (b"\x80\x02\x82\1.", "operation 130"),
    "a buffer outside": (b"\x80\x05\x97.", "operation 151"),
    "an instance": (b"(ios\nsystem\n.", "operation 105"),
    "a persistent name": (b"Pa\n.", "operation 80"),
    "a call of text": (b"\x80\x02" + text("x") + b")R.", "calls a str"),
    "a call of a tensor": (b"\x80\x02" + tensor(0, (1,), (1,)) + b")R.", "calls a Tensor"),
    "a call without a tuple": (b"\x80\x02ccollections\nOrderedDict\n]R.", "without a tuple"),
    "a table made of a table": (b"\x80\x02ccollections\nOrderedDict\n}\x85R.", "damaged"),
    "attributes of a tensor": (b"\x80\x02" + tensor(0, (1,), (1,)) + b"}b.", "sets attributes of a Tensor"),
    "attributes of a function": (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.", "sets attributes of a Function"),
    "an item of a text": (b"\x80\x02" + text("x") + b"NNs.", "sets an item of a str"),
    "an item of text": (b"\x80\x02" + text("x") + b"Na.", "appends to a str"),
    "a key that is a table": (b"\x80\x02}}Ns.", "key that is a dict"),
    "a deep key": (b"\x80\x02}" + NESTED[2:] + b"Ns.", "key of too many parts"),
    "a huge key": (b"\x80\x02}" + number(1 << 61) + b"Ns.", "key that is a huge integer"),
    "half an item": (b"\x80\x02}(Nu.", "damaged"),
    "a global that is no text": (b"\x80\x04NN\x93.", "no text"),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_pickle_that_torch_does_not_write_is_refused(tmp_path: Path, kind: str) -> None:
    program, words = PROGRAMS[kind]
    path = pickled(tmp_path / "a.pt", program)
    with pytest.raises(CheckpointError, match=words) as caught:
        checkpoint.extract(local(path), tmp_path / "out.npz")
    assert str(caught.value).isprintable()


def doubled(place: int) -> bytes:
    """A table that has the one at a place of the memo twice, put at the next place."""
    again = b"h" + bytes([place])
    return b"}(" + text("a") + again + text("b") + again + b"uq" + bytes([place + 1])


# A few bytes that would become gigabytes, or take for ever.
BOMBS: dict[str, bytes] = {
    "a distant place in the memo": b"\x80\x02Nr\xff\xff\xff\xff0}.",
    "a tuple in a tuple in a tuple": NESTED + b"0}.",
    "a list in a list in a list": b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b"0}.",
    "a frame of any length": b"\x80\x04\x95" + b"\xff" * 8 + b"}.",
    "copies of a text": b"\x80\x02"
    + (text("x" * 1_000_000) + b"q\x000")
    + b"c_codecs\nencode\nh\0\x85R" * 50_000
    + b"}.",
    "tables that double": b"\x80\x02}q\0" + b"".join(map(doubled, range(90))) + b".",
    "a table that holds itself twice": b"\x80\x02}q\0(" + text("a") + b"h\0" + text("b") + b"h\0u.",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_pickle_takes_little_time_and_memory(tmp_path: Path, kind: str) -> None:
    path = pickled(tmp_path / "a.pt", BOMBS[kind])
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(CheckpointError):
            checkpoint.extract(local(path), tmp_path / "out.npz")
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 20


def test_the_steps_and_the_bytes_of_a_pickle_are_limited(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(whole)
    monkeypatch.setattr(machine, "MOST_STEPS", 20)
    with pytest.raises(ValueError, match="more than 20 steps"):
        read(whole)
    monkeypatch.setattr(machine, "MOST_BYTES", 20)
    with pytest.raises(ValueError, match="more than 20 are not read"):
        read(whole)


@pytest.mark.parametrize("shape", ["a.b", "a\x1b[31m", "生气"])
def test_an_unsafe_name_cannot_write_to_the_terminal(tmp_path: Path, shape: str) -> None:
    path = pickled(tmp_path / "a.pt", b"\x80\x02c" + shape.encode() + b"\nname\n)R.")
    with pytest.raises(CheckpointError, match="would run code when opened") as caught:
        checkpoint.extract(local(path), tmp_path / "out.npz")
    assert str(caught.value).isprintable()


class Witness:
    """Leaves a mark wherever it is made, copied or called."""

    def __init__(self, mark: str) -> None:
        Path(mark).touch()


def test_no_way_to_name_a_class_makes_one(tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    witness, argument = f"c{__name__}\nWitness\n".encode(), text(str(mark)) + b"\x85"
    ways = {
        "REDUCE": witness + argument + b"R",
        "NEWOBJ": witness + argument + b"\x81",
        "NEWOBJ_EX": witness + argument + b"}\x92",
        "STACK_GLOBAL": text(__name__) + text("Witness") + b"\x93" + argument + b"R",
        "a name with dots": f"c{__name__}\nWitness.__init__\n".encode() + argument + b"R",
        "BUILD": witness + b")\x81}" + text("__class__") + b"Nsb",
    }
    for way, program in ways.items():
        path = pickled(tmp_path / "a.pt", table(program))
        with pytest.raises(torch_save.UnsafeFile, match=re.escape(f"{__name__}.Witness")):
            read(path)
        assert isinstance(read(path, f"{__name__}.")["x"], Placeholder)
        assert not mark.exists(), way
    pickle.loads(table(ways["REDUCE"]))
    assert mark.exists(), "the attack is real"


SMALL = io.BytesIO()
torch.save({"a": {"b": torch.arange(4.0)}, "c": torch.nn.Parameter(torch.ones(2, 2).T)}, SMALL)
WHOLE = SMALL.getvalue()


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_no_damage_is_more_than_an_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(WHOLE)
    for at, value in changes:
        content[at] = value
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(content)
    with suppress(CheckpointError):
        checkpoint.extract(local(path), path.with_suffix(".npz"))


OPERATIONS = [bytes([code]) for code in machine._OPERATIONS]
PARTS = [
    *OPERATIONS,
    b"\0",
    b"\1",
    text("x"),
    number(3),
    storage(),
    tensor(0, (2,), (1,)),
    b"ccollections\nOrderedDict\n",
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=30))
def test_no_program_is_more_than_an_error(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    path = pickled(tmp_path_factory.getbasetemp() / "program.pt", b"\x80\x02" + b"".join(parts) + b".")
    with suppress(ValueError, torch_save.UnsafeFile):
        read(path)


# --- memory, and where torch is not installed


def test_a_conversion_never_holds_more_than_a_tensor(tmp_path: Path) -> None:
    size = 1 << 22  # numbers
    state = {f"x{i}": torch.full((size,), float(i)) for i in range(6)} | {
        "half": torch.ones(size, dtype=torch.bfloat16)
    }
    state["columns"] = torch.ones(2048, 2048).T
    path = saved({"model": state, "optimizer": [torch.ones(size)] * 8}, tmp_path / "a.pt")
    tracemalloc.start()
    try:
        read(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        checkpoint.extract(local(path), tmp_path / "out.npz")
        assert tracemalloc.get_traced_memory()[1] < 3 * 4 * size
    finally:
        tracemalloc.stop()
    with np.load(tmp_path / "out.npz") as stored:
        assert {name: float(stored[name][-1].mean()) for name in state} == {
            **{f"x{i}": float(i) for i in range(6)},
            "half": 1.0,
            "columns": 1.0,
        }


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "emotion2vec": toys.make,
    "wav2vec2": toys.make_dimensional,
    "wavlm": lambda folder: wavlm.make(toys.WAVLM, folder),
    "wav2small": lambda folder: wav2small.make(wav2small.PUBLISHED, folder),
    "whisper": lambda folder: whisper.make(toys.WHISPER, folder),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_converted_without_torch(tmp_path: Path, family: str) -> None:
    source = FAMILIES[family](tmp_path / "checkpoint")
    assert toys.convert_without_torch(source, tmp_path / "a") == ""
    wanted = toys.convert(source, tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (wanted / name).read_bytes()


def test_an_old_file_without_torch_is_one_line_that_names_the_remedy(tmp_path: Path) -> None:
    source = toys.make(tmp_path / "checkpoint")
    torch.save({"model": toys.tensors(source)}, source / "model.pt", _use_new_zipfile_serialization=False)
    line = toys.convert_without_torch(source, tmp_path / "a")
    assert line.count("\n") == 1
    assert "before PyTorch 1.6" in line
    assert 'pip install "e2v-port[torch]"' in line
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"\x80\x02N.", b"PK\3\4"], ids=str)
def test_without_torch_another_file_is_not_taken_for_an_old_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    assert "it is not a zip file" in toys.convert_without_torch(tmp_path, tmp_path / "a")
