"""model.bin of CTranslate2: what is read of one, and what is said of a damaged or hostile one."""

import json
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from ctranslate2_file import model_bin
from hypothesis import given, settings
from hypothesis import strategies as st

import e2v_port
from e2v_port.checkpoints.checkpoint import local
from e2v_port.converters import checkpoint, ctranslate2

DRAW = np.random.default_rng(0)
VARIABLES = {
    "encoder/conv1/weight": DRAW.standard_normal((4, 3, 2)).astype(np.float16),
    "encoder/conv1/bias": DRAW.standard_normal(4).astype(np.float32),
    "encoder/num_heads": np.int16(6),
    "encoder/pre_norm": np.int8(1),
}
ALIASES = {"decoder/conv1/bias": "encoder/conv1/bias"}
WHOLE = model_bin(VARIABLES, ALIASES)


def read(content: bytes, folder: Path):
    path = folder / "model.bin"
    path.write_bytes(content)
    assert ctranslate2.recognize(path)
    return ctranslate2.read(path)


def test_tensors_aliases_and_settings(tmp_path):
    entries, settings = read(WHOLE, tmp_path)
    assert [name for name, _ in entries] == ["encoder/conv1/weight", "encoder/conv1/bias", "decoder/conv1/bias"]
    for name, values in entries:
        wanted = VARIABLES[ALIASES.get(name, name)]
        assert values.numpy().dtype == wanted.dtype
        np.testing.assert_array_equal(values.numpy(), wanted)
    assert settings == {"kind": "WhisperSpec", "revision": 3, "encoder/num_heads": 6, "encoder/pre_norm": 1}


def test_bfloat16(tmp_path):
    values = torch.randn(3, 5).bfloat16()
    entries, _ = read(model_bin({"x": (values.view(torch.int16).numpy(), 5)}), tmp_path)
    found = dict(entries)["x"]
    assert found.dtype.name == str(values.dtype)
    np.testing.assert_array_equal(found.numpy(), values.float().numpy())


def test_other_files_are_not_taken_for_one(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "zip.pt")
    torch.save({"a": torch.zeros(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "zeros").write_bytes(bytes(1000))
    for path in tmp_path.iterdir():
        assert not ctranslate2.recognize(path), path


FIRST = WHOLE.index(b"encoder/conv1/weight") - 2  # its name, with the length before it
SIZES = FIRST + 2 + len(b"encoder/conv1/weight\0")  # axes, length of each, type, bytes
HUGE = struct.pack("<I", 0xFFFFFFFF)


def patched(at: int, content: bytes) -> bytes:
    return WHOLE[:at] + content + WHOLE[at + len(content) :]


DAMAGED = {
    "an older version": (patched(0, b"\5"), "version 5, and only 6 is known"),
    "huge count": (patched(FIRST - 4, HUGE), "counts 4294967295"),
    "plausible count, too few variables": (patched(FIRST - 4, struct.pack("<I", 99_999)), "unknown type 19"),
    "long name": (patched(FIRST, b"\xff\xff"), "ends at byte"),
    "name without its zero": (patched(FIRST, b"\5\0"), "does not end in a zero"),
    "name that is no text": (patched(FIRST + 2, b"\xff"), "decode"),
    "unprintable name": (patched(FIRST + 2, b"\x1b"), "not a valid name"),
    "255 axes": (patched(SIZES, b"\xff"), "ends at byte"),
    "huge axes": (patched(SIZES + 1, HUGE * 3), "has 48 bytes for 3 axes"),
    "no numbers": (patched(SIZES + 1, bytes(4)), "has 48 bytes for 3 axes"),
    "unknown type": (patched(SIZES + 13, b"\6"), "unknown type 6"),
    "other type": (patched(SIZES + 13, b"\0"), "has 48 bytes"),
    "huge bytes": (patched(SIZES + 14, HUGE), "has 4294967295 bytes"),
    "huge and consistent": (patched(SIZES + 1, struct.pack("<3IBI", 1 << 10, 1 << 10, 1 << 10, 1, 1 << 30)), "ends at"),
    "truncated": (WHOLE[:-1], "ends at byte"),
    "more after the end": (WHOLE + b"\0", "1 bytes follow"),
    "alias of nothing": (model_bin(VARIABLES, {"a": "b"}), "'a' is an alias of 'b'"),
    "name twice": (model_bin(VARIABLES, {"encoder/conv1/bias": "encoder/conv1/weight"}), "bias occurs twice"),
    "setting twice": (
        model_bin({"heads": np.int16(6), "headz": np.int16(6)}).replace(b"headz", b"heads"),
        "'heads' occurs twice",
    ),
    "quantized": (model_bin({**VARIABLES, "w": np.ones((2, 2), np.int8)}), "quantized, w .*--quantization float16"),
    "no tensors": (model_bin({"a": np.int8(1)}), "no tensors"),
    "only the kind": (WHOLE[:18], "ends at byte 18"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_line_and_takes_no_memory(name, tmp_path):
    content, message = DAMAGED[name]
    (tmp_path / "model.bin").write_bytes(content)
    (tmp_path / "config.json").write_text("{}")
    assert ctranslate2.recognize(tmp_path / "model.bin")
    tracemalloc.start()
    try:
        with pytest.raises(e2v_port.CheckpointError, match=message) as caught:
            checkpoint.extract(local(tmp_path), tmp_path / "out.npz")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "out.npz").exists()


@given(st.lists(st.tuples(st.integers(18, len(WHOLE) - 1), st.integers(0, 255)), max_size=4), st.integers(18, 1000))
@settings(max_examples=300, deadline=None)
def test_no_damage_is_more_than_an_error(tmp_path_factory, changes, end):
    content = bytearray(WHOLE)
    for at, value in changes:
        content[at] = value
    folder = tmp_path_factory.getbasetemp() / "model_bin"
    folder.mkdir(exist_ok=True)
    try:
        entries, _ = read(bytes(content[:end]), folder)
    except e2v_port.CheckpointError:
        return
    assert len(entries) <= len(VARIABLES) + len(ALIASES)


def test_every_end_in_the_middle_is_an_error(tmp_path):
    for end in range(18, len(WHOLE)):
        with pytest.raises(e2v_port.CheckpointError):
            read(WHOLE[:end], tmp_path)


def test_which_weights_a_folder_holds(tmp_path):
    """Those of transformers come first, and a config.json alone is none."""
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(e2v_port.CheckpointError, match="no weights in this folder"):
        local(tmp_path)
    for name in ("model.bin", "pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).write_bytes(b"")
        assert local(tmp_path).weights == tmp_path / name
        assert local(tmp_path).config == tmp_path / "config.json"
    assert local(tmp_path / "model.bin").config == tmp_path / "config.json"
