"""What is installed: names, versions, what an import costs."""

import subprocess
import sys
from importlib.metadata import entry_points, metadata, version
from importlib.resources import files
from pathlib import Path

import pytest
import soundfile
from safetensors import safe_open

import e2v_port
from e2v_port import catalog, emotions, layout
from e2v_port.config import ModelConfig

ROOT = Path(__file__).parents[1]


def test_the_version_is_told_in_one_way():
    assert version("e2v-port") == e2v_port.__version__


def test_the_command_is_installed():
    (command,) = entry_points(group="console_scripts", name="e2v")
    assert callable(command.load())


def test_importing_loads_no_framework():
    program = "import sys, e2v_port; print(*{'torch', 'mlx', 'numpy', 'typer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("folder", ["taxonomy", "weights"])
def test_data_is_installed(folder):
    data = sorted(path.name for path in (ROOT / folder).glob("*.json"))
    assert data
    assert sorted(path.name for path in files(f"e2v_port.{folder}").iterdir() if path.name.endswith(".json")) == data


def test_the_bundled_model_is_what_the_manifest_says():
    """Also that it can be read by others than who made it, and stays small."""
    folder = catalog.find("bundled")
    assert folder.samefile(str(files("e2v_port.weights").joinpath("bundled")))
    known, config = catalog.lookup("bundled"), ModelConfig.read(folder)
    layout.check(folder / "model.safetensors", config.architecture, config.dtype)
    with safe_open(folder / "model.safetensors", "np") as stored:
        parameters = sum(stored.get_tensor(name).size for name in stored.keys())  # noqa: SIM118 (not a dict)
    assert (known.family, known.embed_dim, known.parameters, known.labels, known.licence) == (
        config.family,
        config.architecture.embed_dim,
        parameters,
        tuple(label.name for label in config.labels),
        config.licence,
    )
    assert config.source.repository == known.id == "bundled"
    assert set(known.labels) <= set(emotions.labels("emotion2vec"))
    assert (folder / "model.safetensors").stat().st_size <= 2_000_000
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())


def test_every_extra_is_tried_by_ci():
    # A new one is otherwise noticed only at the very end of a run.
    steps = (ROOT / ".ci" / "run").read_text("utf-8")
    extras = metadata("e2v-port").get_all("Provides-Extra")
    assert [extra for extra in extras if f"        {extra})" not in steps] == []


def test_shipped_clips_are_small_and_ready_to_use():
    clips = sorted((ROOT / "benchmarks" / "speech").glob("*.flac"))
    assert clips
    assert sum(clip.stat().st_size for clip in clips) < 150_000
    for clip in clips:
        about = soundfile.info(clip)
        assert (about.samplerate, about.channels) == (16_000, 1)
