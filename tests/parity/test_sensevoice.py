"""All runtimes against FunASR's SenseVoiceSmall: the same weights, the same clips, every stage, and its tags."""

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import e2v_port
from e2v_port.architectures.base import Readout
from e2v_port.audio import load_audio
from e2v_port.checkpoints.checkpoint import local
from e2v_port.converters import sensevoice as converter
from e2v_port.emotions.estimates import softmax
from e2v_port.export.onnx_folder import export_onnx
from e2v_port.models import devices
from e2v_port.parity import references, verify
from e2v_port.parity import sensevoice as reference_module
from e2v_port.parity.verify import LOGIT_TOLERANCES
from parity.holding import held
from parity.references import CLIPS

pytestmark = pytest.mark.skipif(
    not references.installed("sensevoice"), reason="FunASR is not installed: pip install funasr kaldi-native-fbank"
)

RUNTIMES = [name for name in devices.RUNTIMES if devices.unavailable(name) is None]
CASES = {
    "toy": toys.SENSEVOICE,
    # Fewer bands and columns, another step, a wider window of the convolution.
    "other sizes": replace(toys.SENSEVOICE, num_heads=4, bands=40, stacked=5, step=3, kernel=15, depth=1, tp_depth=3),
    "full size": converter.SMALL,
}
TOYS = ["toy", "other sizes"]
FULL = pytest.param("full size", "voice-2", marks=pytest.mark.xdist_group("sensevoice-small"))
COMPARED = [*((name, clip) for name in TOYS for clip in CLIPS), FULL]
# Sample counts around a frame, a column and a window: 400 samples are one column, 960 one frame.
LENGTHS = (16_000, 400, 401, 1359, 1360, 1361, 20_000, 20_319, 20_320, 48_000)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Returns the checkpoint of a case and its converted folder."""
    root = tmp_path_factory.mktemp("sensevoice")

    @lru_cache
    def make(name: str) -> tuple[Path, Path]:
        checkpoint = toys.make_sensevoice(root / name, CASES[name], seed=len(name))
        return checkpoint, e2v_port.convert(checkpoint, out=root / f"{name} converted")

    return make


@pytest.fixture(scope="session")
def loaded(folders):
    @held(maxsize=3)
    def load(name: str, runtime: str) -> e2v_port.Model:
        return e2v_port.load(folders(name)[1], runtime=runtime)

    return load


@pytest.fixture(scope="session")
def reference(folders):
    @held(maxsize=1)
    def model(name: str) -> reference_module.FunASR:
        return reference_module.FunASR(local(folders(name)[0]))

    return model


@pytest.fixture(scope="session")
def stages(reference, speech):
    """Returns FunASR's stages of a clip."""

    @held(maxsize=1)
    def run(name: str, clip: str) -> dict[str, np.ndarray]:
        return reference(name).stages(CLIPS[clip](speech))

    return run


def voices(lengths=LENGTHS) -> list[np.ndarray]:
    clip = verify.test_clip()
    return [np.resize(np.roll(clip, 997 * i), length) for i, length in enumerate(lengths)]


@pytest.mark.parametrize(("name", "clip"), COMPARED)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_stage_equals_funasr(name, clip, runtime, stages, loaded, speech, record_property):
    model = loaded(name, runtime)
    checks = verify.compare(model, stages(name, clip), model.stages(CLIPS[clip](speech), 16_000))
    record_property("parity", (f"sensevoice {name}", runtime, clip, {each.name: each.difference for each in checks}))
    assert len(checks) == 9 + CASES[name].blocks
    off = [f"{each.name} {each.difference:.1e} > {each.tolerance:.0e}" for each in checks if not each.passed]
    assert not off, f"first off: {off[0]}; all: {off}"


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", [pytest.param(each, id=each) for each in TOYS])
def test_the_tags_are_those_of_funasr_with_its_probabilities(name, runtime, reference, loaded):
    """FunASR's own inference, whose scores of the vocabulary become text before a user sees them, is listened in on."""
    theirs, clip = reference(name), voices([31_000])[0]
    heard = []

    class Tokenizer:
        def decode(self, numbers: list[int]) -> str:
            return " ".join(map(str, numbers))

    hook = theirs.model.ctc.ctc_lo.register_forward_hook(lambda *values: heard.append(values[2].log_softmax(2)[0]))
    options = {"tokenizer": Tokenizer(), "frontend": theirs.frontend, "device": "cpu", "key": ["clip"]}
    try:
        with torch.inference_mode():
            (answer,), _ = theirs.model.inference([clip], **options)
    finally:
        hook.remove()
    scores = heard[0].exp().numpy()  # [4 + frames, tokens]
    model = loaded(name, runtime)
    ((duration, output),) = model.each([clip], 16_000)
    found = {"": model.judge((duration, output)).scores}
    found |= {name: probabilities(rows) for name, rows in model.outputs((duration, output)).items()}
    for output_name, query, tags in (("language", 0, converter.LANGUAGES), ("", 1, converter.EMOTIONS)):
        compare_tags(found[output_name], scores[query], tags, LOGIT_TOLERANCES[runtime])
    compare_tags(found["events"], scores[2], converter.EVENTS, LOGIT_TOLERANCES[runtime])
    assert answer["text"].split()[0] == str(scores[0].argmax())  # these are the scores that its text is made of


def probabilities(rows: dict[str, float]) -> dict[str, float]:
    return dict(zip(rows, softmax(np.array([*rows.values()]), 1.0).tolist(), strict=True))


def compare_tags(found: dict[str, float], scores: np.ndarray, tags: dict[str, tuple[int, str]], bar: float) -> None:
    assert [*found] == [*tags]
    wanted = scores[[number for number, _ in tags.values()]]
    np.testing.assert_allclose([*found.values()], wanted / wanted.sum(), rtol=0, atol=bar)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_batch_equals_its_clips_one_by_one(runtime, loaded):
    model = loaded("toy", runtime)
    clips = voices()
    together = list(model.each(clips, 16_000, frames=True))
    for clip, (_, output) in zip(clips, together, strict=True):
        ((_, alone),) = model.each([clip], 16_000, frames=True)
        assert output.frames.shape == (model.config.architecture.frames(len(clip)), 64)
        for field in ("embedding", "logits", "frames"):
            np.testing.assert_allclose(getattr(output, field), getattr(alone, field), rtol=0, atol=2e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_frames_are_funasrs_and_are_not_judged(runtime, loaded, stages, speech):
    """Frames hold text, and the head takes states of queries, of which a clip has one: no frame has an emotion."""
    model = loaded("toy", runtime)
    ((_, output),) = model.each([CLIPS["voice-1"](speech)], 16_000, frames=True)
    np.testing.assert_allclose(output.frames, stages("toy", "voice-1")["tp_norm"][4:], rtol=0, atol=1e-4)
    assert output.frame_logits is None
    assert model.config.architecture.hop == 960
    with pytest.raises(e2v_port.NoLabels, match="judges whole clips"):
        next(e2v_port.analyze([CLIPS["voice-1"](speech)], sampling_rate=16_000, model=model, frames=True))


def test_a_long_clip_runs_in_windows(loaded):
    model, clip = loaded("toy", "cpu"), np.tile(verify.test_clip(), 25)  # 75 s
    ((duration, output),) = model.each([clip], 16_000, frames=True)
    assert duration == 75
    assert len(output.frames) == model.config.architecture.frames(len(clip))
    short = model.predict(clip[: 30 * 16_000], 16_000)  # the windows hear about the same
    assert [*short.logits.values()] == pytest.approx(output.logits.tolist(), abs=0.5)


def test_it_exports(folders, loaded, tmp_path):
    pytest.importorskip("onnx", reason='onnx is not installed: pip install "e2v-port[onnx]"')
    pytest.importorskip("onnxruntime", reason='onnxruntime is not installed: pip install "e2v-port[onnx]"')
    for name in TOYS:
        folder = tmp_path / name
        export_onnx(folders(name)[1], folder)
        exported, own = e2v_port.load(folder, runtime="onnx"), loaded(name, "cpu")
        for found, wanted in zip(
            exported.each(voices(), 16_000, frames=True), own.each(voices(), 16_000, frames=True), strict=True
        ):
            np.testing.assert_allclose(found[1].logits, wanted[1].logits, rtol=0, atol=5e-5)
            np.testing.assert_allclose(found[1].frames, wanted[1].frames, rtol=0, atol=1e-4)
            assert exported.outputs(found)["events"] == pytest.approx(own.outputs(wanted)["events"], abs=5e-5)
            assert found[1].frame_logits is None
    export_onnx(folders("toy")[1], tmp_path / "int8", dtype="int8")


@pytest.mark.parametrize("layers", [(1,), (3, 4), (2, 6)])
def test_layers_can_be_read(layers, folders, tmp_path):
    """A head for the frames of inner blocks, as `e2v train` makes them, is the same on every runtime."""
    from safetensors.numpy import load_file

    whole = load_file(folders("toy")[1] / "model.safetensors")
    config = replace(toys.SENSEVOICE.read(Readout(layers, "deviation")), num_labels=2)
    draw = np.random.default_rng(0)
    arrays = {
        name: whole[name] if whole.get(name, np.empty(0)).shape == shape else draw.standard_normal(shape) / 9
        for name, shape in config.tensors().items()
    }
    folder, clips = toys.store(tmp_path / "read", config, arrays), voices()
    results = [list(e2v_port.load(folder, runtime=name).each(clips, 16_000, frames=True)) for name in RUNTIMES]
    states = e2v_port.load(folders("toy")[1], runtime="cpu").layers(clips, 16_000)
    for i, state in enumerate(states):
        if len(layers) == 1:
            np.testing.assert_allclose(results[0][i][1].frames, state[layers[0] - 1], rtol=0, atol=1e-4)
        for result in results:
            np.testing.assert_allclose(result[i][1].embedding, results[0][i][1].embedding, rtol=0, atol=1e-4)
            assert result[i][1].frame_logits.shape == (len(state[0]), 2)


def test_16_bits_and_packed_numbers_answer_about_the_same(folders, loaded, tmp_path):
    clips = voices([16_000, 48_000])
    exact = loaded("toy", "cpu").predict(clips, 16_000)
    packed = e2v_port.convert(folders("toy")[0], out=tmp_path / "q8", dtype="q8")
    models = [e2v_port.load(folders("toy")[1], runtime="cpu", dtype="bfloat16"), e2v_port.load(packed, runtime="cpu")]
    for model in models:
        for prediction, wanted in zip(model.predict(clips, 16_000), exact, strict=True):
            assert prediction.scores == pytest.approx(wanted.scores, abs=0.03)


def test_its_operations_are_those_that_torch_counts():
    from e2v_port.runtimes.sensevoice_torch import Sensevoice

    network, clip = Sensevoice(toys.SENSEVOICE), torch.zeros(1, 20_000)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        _, embedding, _ = network(clip, [20_000])
        for branch in toys.SENSEVOICE.others:
            network.score(embedding, branch.name)
    assert toys.SENSEVOICE.flops(20_000) == counter.get_total_flops()


def test_a_checkpoint_needs_no_more_than_its_weights_and_scaling(folders, tmp_path):
    """The published repository names am.mvn, but no tokens; a lone model.pt finds what lies beside it."""
    source, converted = folders("toy")
    found = local(source)
    assert (found.cmvn, found.tokens) == (source / "am.mvn", source / "tokens.json")
    for kept in (("model.pt", "am.mvn"), ("model.pt", "am.mvn", "config.yaml", "configuration.json")):
        folder = tmp_path / str(len(kept))
        folder.mkdir()
        for name in kept:
            (folder / name).symlink_to(source / name)
        notes: list[str] = []
        named = folder if len(kept) > 2 else folder / "model.pt"
        if len(kept) == 2:  # its eight heads leave no trace in the tensors
            out = e2v_port.convert(named, out=folder / "out", note=notes.append)
            assert any("no config.yaml" in note for note in notes)
            assert e2v_port.load(out, runtime="cpu").config.architecture.num_heads == 4
        else:
            out = e2v_port.convert(named, out=folder / "out")
            assert (out / "model.safetensors").read_bytes() == (converted / "model.safetensors").read_bytes()


def edited(source: Path, folder: Path, name: str, change) -> Path:
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / name).unlink()
    if (text := change((source / name).read_text("utf-8"))) is not None:
        (folder / name).write_text(text, "utf-8")
    return folder


REFUSED = {
    "no scaling": ("am.mvn", lambda _: None, r"no am\.mvn"),
    "half a scaling": ("am.mvn", lambda text: text.split("<Rescale>")[0], "does not hold the scaling"),
    "a scaling of another size": ("am.mvn", lambda text: text.replace("[ -", "[ 1 -", 1), r"cmvn\.shift is \[561\]"),
    "a scaling of words": ("am.mvn", lambda text: text.replace("[ -", "[ x -", 1), "does not hold the scaling"),
    "another vocabulary": (
        "tokens.json",
        lambda text: text.replace("[", '["<s>", ', 1),
        r"token 25001 of tokens\.json is '.*', not '<\|HAPPY\|>'",
    ),
    "a shifted window": ("config.yaml", lambda text: text.replace("sanm_shfit: 0", "sanm_shfit: 2"), "sanm_shfit is 2"),
    "another norm": (
        "config.yaml",
        lambda text: text.replace("normalize_before: true", "normalize_before: false"),
        "normalize_before is False",
    ),
    "another rate": ("config.yaml", lambda text: text.replace("fs: 16000", "fs: 8000"), "fs is 8000"),
    "heads that do not fit": ("config.yaml", lambda text: text.replace("heads: 8", "heads: 5"), "not those of a Sense"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_checkpoint_that_is_not_computed_is_refused(kind, folders, tmp_path):
    name, change, message = REFUSED[kind]
    source = edited(folders("toy")[0], tmp_path / "edited", name, change)
    if not (source / name).exists():
        (source / "configuration.json").unlink()  # which names it, so that the folder would be incomplete
    with pytest.raises(e2v_port.CheckpointError, match=message):
        e2v_port.convert(source, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_smaller_vocabulary_is_refused(folders, tmp_path):
    source = tmp_path / "small"
    source.mkdir()
    for path in folders("toy")[0].iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    state = torch.load(source / "model.pt", weights_only=True)["state_dict"]
    state |= {f"ctc.ctc_lo.{part}": state[f"ctc.ctc_lo.{part}"][:25_000].clone() for part in ("weight", "bias")}
    torch.save({"state_dict": state}, source / "model.pt")
    with pytest.raises(e2v_port.CheckpointError, match="25055 tokens of SenseVoiceSmall"):
        e2v_port.convert(source, out=tmp_path / "out")


def test_verify_compares_it_with_funasr(folders, loaded):
    rows, notes = verify.verify([loaded("toy", "cpu")])
    assert {row[0].name for row in rows} >= {"spectrogram", "features", "tp_norm", "pooled", "logits", "probabilities"}
    assert all(check.passed for row in rows for check in row)
    assert not [note for note in notes if note.startswith("no reference")]


def test_the_command_answers(folders, loaded, speech):
    from typer.testing import CliRunner

    from e2v_port.cli import app

    line = ["analyze", "--whole", "--json", "--model", str(folders("toy")[1]), "--runtime", "cpu", str(speech[0])]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    (segment,) = json.loads(result.stdout)["segments"]
    wanted = loaded("toy", "cpu").predict(load_audio(speech[0]), 16_000).scores
    assert segment["emotion"]["e2v_scores"] == pytest.approx(wanted, abs=1e-6)
