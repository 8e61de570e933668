"""Reads a file of torch.save or torch.jit.save without torch, from the version of 2020 on, in which they are zip files.

Each storage is a member of the archive. The pickle among them, data.pkl, says which tensor is which view of which one.
Older files are no zip files. Source: torch/serialization.py and torch/_utils.py.
"""

import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2v_port.unpickling.archive import Archive
from e2v_port.unpickling.machine import Function, Placeholder, run
from e2v_port.unpickling.tensors import DTYPES, Dtype, NoTensor, Storage, Tensor, mapped

__all__ = ["UnsafeFile", "read"]

NEWEST_VERSION = 10
_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
    "QInt32": "qint32",
    "QInt8": "qint8",
    "QUInt8": "quint8",
    "QUInt4x2": "quint4x2",
    "QUInt2x4": "quint2x4",
}


class UnsafeFile(Exception):
    """A file that names classes or functions that are not needed for tensors: opened in torch, it could run code.

    Attributes:
        names: Those classes and functions, sorted.
    """

    def __init__(self, names: list[str]) -> None:
        super().__init__(", ".join(names))
        self.names = names


@dataclass(frozen=True, eq=False)
class _TypedStorage:
    """A storage and the type of its numbers, as the pickle names them together."""

    storage: Storage
    dtype: Dtype


def read(path: Path, placeholders: tuple[str, ...], *, program: bool = False) -> Any:
    """Reads what was saved: tables, lists, texts, numbers and tensors.

    Args:
        path: File to read. It is mapped into memory, and the bytes of a tensor are read where they are used.
        placeholders: Starts of the names of further classes and functions that the file may have. None of them is
            looked up: their objects are placeholders.
        program: Whether it may be a file of torch.jit.save.

    Returns:
        What was saved; for a program its module, a placeholder with its attributes as state.

    Raises:
        UnsafeFile: It has other classes or functions.
        ValueError: It is not such a file, or damaged, or has the byte order of another kind of machine.
        OSError: It cannot be opened.
    """
    archive = Archive(mapped(path))
    root = archive.names[0].partition("/")[0] if archive.names else ""
    if (f"{root}/constants.pkl" in archive.names) and not program:
        raise ValueError("it is a program of torch.jit.save: save the state_dict() of the model with torch.save")
    if f"{root}/version" in archive.names:
        version = bytes(archive.member(f"{root}/version").data[:20])
        if not version.strip().isdigit() or int(version) > NEWEST_VERSION:
            raise ValueError(f"its format is version {version!r}, and none is known after {NEWEST_VERSION}")
    if f"{root}/byteorder" in archive.names and bytes(archive.member(f"{root}/byteorder").data[:7]) != b"little":
        raise ValueError("it was saved on a big-endian machine: load it in torch there or here, and save it again here")
    return _Reader(archive, root, placeholders).read()


class _Reader:
    """Reads the pickle of an archive."""

    def __init__(self, archive: Archive, root: str, placeholders: tuple[str, ...]) -> None:
        self.archive = archive
        self.root = root
        self.placeholders = placeholders
        self.unsafe: set[str] = set()
        self.storages: dict[str, Storage] = {}

    def read(self) -> Any:
        pickle = self.archive.member(f"{self.root}/data.pkl")
        pickle.check()
        try:
            found = run(pickle.data, self.find, self.load)
        except ValueError:
            if self.unsafe:
                raise UnsafeFile(sorted(self.unsafe)) from None
            raise
        if self.unsafe:
            raise UnsafeFile(sorted(self.unsafe))
        return found

    def find(self, module: str, name: str) -> Any:
        """Returns what a global of the pickle stands for."""
        # torch.save writes names of Python 2.
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        whole = f"{module}.{name}"
        if whole in _TABLE:
            return _TABLE[whole]
        if not whole.startswith(self.placeholders) and not _INERT.fullmatch(whole):
            self.unsafe.add(whole)  # and go on, to name all of them
        return Placeholder(whole)

    def load(self, identity: Any) -> _TypedStorage:
        """Returns the storage that a persistent id of the pickle names."""
        kind, dtype, key, _, numbers = identity
        if kind != "storage" or type(dtype) is not Dtype or type(key) is not str or type(numbers) is not int:
            raise ValueError("its pickle names something outside it that is no storage")
        if key not in self.storages:
            self.storages[key] = self.archive.member(f"{self.root}/data/{key}")
        storage = self.storages[key]
        if not 0 <= numbers * dtype.itemsize <= storage.data.size:
            raise ValueError(f"{storage.name!r} has {storage.data.size} bytes for {numbers} numbers of {dtype.name}")
        return _TypedStorage(storage, dtype)


def _table() -> dict[Any, Any]:
    """Stands in for OrderedDict, and takes no arguments: a copy of a table for each call would fill the memory."""
    return {}


# The arguments of torch's functions of these names are storage, offset, shape, strides, requires_grad, hooks, and then
# dtype, where the storage has none, and metadata, where there are any.


def _tensor(typed: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *rest: Any) -> Tensor | NoTensor:
    if type(typed) is not _TypedStorage:
        raise ValueError("its pickle makes a tensor of something that is no storage")
    if any(rest[2:]):  # bits for "still to be negated" and "still to be conjugated"
        return NoTensor("a tensor with a negation or conjugation that is still to be computed")
    return Tensor(typed.storage, typed.dtype, offset, shape, strides)


def _tensor_of_type(typed: Any, *rest: Any) -> Tensor | NoTensor:
    *view, dtype = rest[:6]
    if type(dtype) is Placeholder:
        return NoTensor(f"a tensor of {dtype.name}")
    if type(dtype) is not Dtype or type(typed) is not _TypedStorage:
        raise ValueError("its pickle makes a tensor of something that is no storage, or no type of numbers")
    return _tensor(_TypedStorage(typed.storage, dtype), *view, *rest[6:])


def _parameter(data: Any, *_: Any) -> Any:
    if type(data) not in {Tensor, NoTensor}:
        raise ValueError("its pickle makes a parameter of something that is no tensor")
    return data


def _with_attributes(function: Any, _class: Any, arguments: Any, _state: Any) -> Any:
    """Stands in for what makes a tensor that has attributes; they are dropped."""
    if function not in _PLAIN or type(arguments) is not tuple:
        return NoTensor("a tensor of a class of its own")
    return function.call(*arguments)


def _no_tensor(what: str) -> Function:
    return Function(lambda *_: NoTensor(what))


_PLAIN = (Function(_tensor), Function(_tensor_of_type), Function(_parameter))
# Everything that can be called or has a meaning.
_TABLE: dict[str, Any] = {
    "collections.OrderedDict": Function(_table),
    "torch._utils._rebuild_tensor": _PLAIN[0],
    "torch._utils._rebuild_tensor_v2": _PLAIN[0],
    "torch._utils._rebuild_tensor_v3": _PLAIN[1],
    "torch._utils._rebuild_parameter": _PLAIN[2],
    "torch._utils._rebuild_parameter_with_state": _PLAIN[2],
    "torch._tensor._rebuild_from_type_v2": Function(_with_attributes),
    "torch._utils._rebuild_sparse_tensor": _no_tensor("a sparse tensor"),
    "torch._utils._rebuild_qtensor": _no_tensor("a quantized tensor"),
    "torch._utils._rebuild_nested_tensor": _no_tensor("a nested tensor"),
    "torch._utils._rebuild_meta_tensor_no_storage": _no_tensor("a tensor of the meta device, larger than its data"),
    "torch._utils._rebuild_wrapper_subclass": _no_tensor("a tensor of a class of its own"),
    "torch._utils._rebuild_device_tensor_from_numpy": _no_tensor("a tensor of another device"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _no_tensor("a tensor of another device"),
    "torch.storage.UntypedStorage": DTYPES["uint8"],
    **{f"torch.{name}Storage": DTYPES[dtype] for name, dtype in _STORAGES.items()},
    **{f"torch.{name}": dtype for name, dtype in DTYPES.items()},
}
# What torch.save writes beside tensors: kinds of them, devices, layouts, and values that no weight is.
_INERT = re.compile(
    r"torch\.(Size|device|serialization\._get_layout|nn\.parameter\.Parameter|((cuda|sparse|cuda\.sparse|xpu)\.)?\w*Tensor"
    r"|per_(tensor|channel)_\w+|u?int\d|bits\w+|float[48]_\w+)"
    r"|collections\.Counter|_codecs\.encode|builtins\.(bool|bytearray|bytes|complex|dict|float|frozenset|int|list|set|str|tuple)"
)
