"""The installed package: names, versions, cost of an import."""

import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, metadata, version
from importlib.resources import files
from pathlib import Path

import pytest
import soundfile

import e2v_port
from e2v_port.architectures import tensors
from e2v_port.architectures.config import ModelConfig
from e2v_port.checkpoints import catalog
from e2v_port.emotions import taxonomy
from e2v_port.evaluation.datasets import published

ROOT = Path(__file__).parents[1]
WEIGHTS = Path(str(files("e2v_port.weights")))
BUNDLED = [model for model in catalog.known() if model.bundled]
EMOTIONAL = [model for model in BUNDLED if model.labels]
RESTRICTED = re.compile(r"(?i:non-?commercial|not for commercial)|\bNC\b")


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


def test_the_default_model_is_free_and_names_say_which_are_not():
    restricted = {model.id: bool(RESTRICTED.search(model.licence)) for model in BUNDLED}
    assert restricted == {
        "bundled": False,
        "bundled-nc": True,
        "bundled-tiny": False,
        "bundled-tiny-nc": True,
        "bundled-voices": False,
    }
    assert catalog.BUNDLED == "bundled"


def test_the_package_stays_small():
    """A wheel has at most 38 MB; all but 2 MB of it are weights, which do not compress."""
    sizes = [(WEIGHTS / model.id / "model.safetensors").stat().st_size for model in BUNDLED]
    assert max(sizes) <= 16_000_000
    assert sum(sizes) <= 36_000_000


@pytest.mark.parametrize("known", BUNDLED, ids=[model.id for model in BUNDLED])
def test_a_bundled_model_is_what_the_manifest_says(known):
    """It can also be read by users other than its maker."""
    folder = catalog.find(known.id)
    assert folder.samefile(WEIGHTS / known.id)
    config = ModelConfig.read(folder)
    tensors.check(folder / "model.safetensors", config.architecture, config.dtype)
    assert (known.family, known.embed_dim, known.parameters, known.labels, known.licence) == (
        config.family,
        config.architecture.embed_dim,
        tensors.parameters(config.architecture),
        tuple(label.name for label in config.labels),
        config.licence,
    )
    assert config.source.repository == known.id
    assert set(known.labels) <= set(taxonomy.labels("emotion2vec"))
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())


@pytest.mark.parametrize("known", EMOTIONAL, ids=[model.id for model in EMOTIONAL])
def test_the_license_of_a_bundled_model_allows_what_its_training_data_allow(known):
    """Nothing about a free model restricts it, and its training speech is in the languages that `e2v models` shows."""
    config = ModelConfig.read(WEIGHTS / known.id)
    speakers = {speaker for each in config.trained_on for speaker in (*each.train, *each.dev)}
    corpora = [published()["corpora"][name] for name in {speaker.partition("/")[0] for speaker in speakers}]
    assert corpora
    restricted = any(RESTRICTED.search(corpus["licence"]) for corpus in corpora)
    assert set(known.languages) == {corpus["language"] for corpus in corpora if "language" in corpus}
    about = [(WEIGHTS / known.id / name).read_text("utf-8") for name in ("config.json", "README.md")]
    assert [bool(RESTRICTED.search(text)) for text in (*about, known.licence)] == 3 * [restricted]
    assert all(known.licence.partition(":")[0] in text for text in about)


@pytest.mark.parametrize("known", EMOTIONAL, ids=[model.id for model in EMOTIONAL])
def test_figures_of_a_bundled_model_are_those_of_its_card(known):
    card = (WEIGHTS / known.id / "README.md").read_text("utf-8")
    assert known.accuracy
    for each in known.accuracy:
        [row] = re.findall(rf"^\| {each.test_set} \|[^|]*\| ([0-9.]+) ", card, re.M)
        assert each.figure == f"UAR {row}"
        assert f"weights/{known.id}/README.md" in each.source


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


def test_a_package_in_a_zip_has_its_model_its_page_and_its_tables(tmp_path):
    """As `PYTHONPATH=e2v_port.whl` or a zipapp imports it."""
    with zipfile.ZipFile(tmp_path / "e2v.zip", "w") as archive:
        for folder in ("e2v_port", "converters", "runtimes", "taxonomy", "weights"):
            for path in sorted((ROOT / folder).rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    inside = path.relative_to(ROOT).as_posix()
                    archive.write(path, inside if folder == "e2v_port" else f"e2v_port/{inside}")
    (tmp_path / "tmp").mkdir()
    program = """if True:
        import os, sys, e2v_port
        assert ".zip" in e2v_port.__file__, e2v_port.__file__
        print(e2v_port.analyze(sys.argv[1], runtime="cpu").segments[0].emotion)
        from e2v_port.service.http import routes
        print((routes._PAGE / "index.html").stat().st_size, len(os.listdir(os.environ["TMPDIR"])))
        from e2v_port.cli import main
        sys.argv = ["e2v", "models"]
        main()"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "e2v.zip"), "TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-c", program, str(ROOT / "benchmarks" / "speech" / "calm.flac")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    label, sizes, *models = done.stdout.splitlines()
    assert label == e2v_port.analyze(command[-1], runtime="cpu").segments[0].emotion
    assert sizes.split() == [str((ROOT / "e2v_port" / "service" / "page" / "index.html").stat().st_size), "2"]
    assert {model.id for model in BUNDLED} <= {line.split()[0] for line in models if line}
    assert list((tmp_path / "tmp").iterdir()) == []


NO_HOME = """
import os, pwd, sys

for name in ("HOME", "XDG_CACHE_HOME", "E2V_WEIGHTS"):
    os.environ.pop(name, None)

def unknown(*_):
    raise KeyError("uid not found")

pwd.getpwuid = pwd.getpwnam = unknown  # as for `docker run --user 4242`
sys.argv[0] = "e2v"
from e2v_port.cli import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="users of POSIX")
def test_a_user_without_a_home_folder(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-c", NO_HOME, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    clip = ROOT / "benchmarks" / "speech" / "calm.flac"
    for arguments in (("analyze", clip, "-r", "cpu"), ("models",), ("doctor",)):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
    for arguments in (
        ("convert", "-m", "iic/emotion2vec_plus_base"),
        ("analyze", "-m", "iic/emotion2vec_plus_base", clip),
        ("evaluate", "-c", "ravdess=~/ravdess"),
    ):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines()[-1].startswith("error: "), done.stderr
        assert "Traceback" not in done.stderr
