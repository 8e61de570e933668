"""All runtimes against FunASR: the same weights, the same clips, every stage."""

import contextlib
import io
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest

from e2v_port.checkpoints.checkpoint import local
from e2v_port.models import devices
from e2v_port.parity import emotion2vec as emotion2vec_reference
from e2v_port.parity import references, verify
from e2v_port.parity.references import Tolerances
from parity.holding import held
from parity.references import CASES, CLIPS

pytestmark = pytest.mark.skipif(
    not references.installed("emotion2vec"),
    reason="FunASR is not installed: pip install funasr (golden files are still compared)",
)

RUNTIMES = [name for name in devices.RUNTIMES if devices.unavailable(name) is None]
# One worker keeps a case's reference and converted model.
BY_CASE = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in CASES]


@pytest.mark.parametrize("runtime", devices.RUNTIMES)
def test_the_runtime_is_compared(runtime):
    if reason := devices.unavailable(runtime):
        pytest.skip(f"not compared on {runtime}: {reason}")
    assert runtime in RUNTIMES


@pytest.fixture(scope="session")
def reference(folders, speech):
    """Returns FunASR's stages of a clip; the last one is kept, for the next runtime."""

    @held(maxsize=1)
    def model(name: str) -> emotion2vec_reference.FunASR:
        return emotion2vec_reference.FunASR(local(folders(name)[0]))

    @held(maxsize=1)
    def stages(name: str, clip: str) -> dict[str, np.ndarray]:
        return model(name).stages(CLIPS[clip](speech))

    return stages


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("name", BY_CASE)
def test_every_stage_equals_funasr(name, clip, runtime, reference, loaded, speech, record_property):
    model = loaded(name, runtime)
    found = model.stages(CLIPS[clip](speech), 16_000)
    checks = verify.compare(model, reference(name, clip), found)
    record_property("parity", (name, runtime, clip, {check.name: check.difference for check in checks}))
    case = CASES[name].config
    blocks = case.prenet_depth + case.depth
    assert len(checks) == 1 + len(case.conv_layers) + 1 + case.conv_pos_depth + 2 + blocks + 1 + 2 * bool(model.labels)
    off = [f"{check.name} {check.difference:.1e} > {check.tolerance:.0e}" for check in checks if not check.passed]
    assert not off, f"first off: {off[0]}; all: {off}"


def test_the_weights_tell_apart_what_could_be_confused(reference):
    """Were the head's logits close together, or a bias zero, the comparison above would show nothing."""
    stages = reference("base", "voice-1")
    assert np.ptp(stages["logits"]) > 3
    assert (stages["bias"].min(axis=(1, 2)) < 0).sum() >= 6  # most heads have a slope
    assert (stages["bias"].min(axis=(1, 2)) == 0).any()  # and a negative scale counts as zero


@pytest.fixture(scope="session")
def generate(folders):
    """Returns what FunASR's public interface answers for a file."""

    @held(maxsize=1)
    def auto_model(name: str):
        import torch
        from funasr import AutoModel

        # Left alone it would have torch use four threads, in every test from here on.
        options = {"device": "cpu", "ncpu": torch.get_num_threads(), "disable_update": True, "disable_pbar": True}
        return AutoModel(model=str(folders(name)[0]), **options)

    def run(name: str, clip: Path, **options):
        logging.disable(logging.WARNING)
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                return auto_model(name).generate(str(clip), **options)[0]
        finally:
            logging.disable(logging.NOTSET)

    return run


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ("six-heads", "unused-labels", "base")]
)
def test_answers_equal_funasr_generate(name, runtime, generate, loaded, speech):
    clip = speech[0]
    model = loaded(name, runtime)
    answer = generate(name, clip, granularity="utterance", extract_embedding=True)
    prediction = model.predict(clip)
    # FunASR names a class by its whole token, and the last one `<unk>`.
    names = ["unknown" if label == "<unk>" else label.split("/")[-1] for label in answer["labels"]]
    assert [*prediction.scores] == names == [*model.labels]
    assert prediction.label == names[int(np.argmax(answer["scores"]))]
    np.testing.assert_allclose(
        [*prediction.scores.values()], answer["scores"], atol=verify.LOGIT_TOLERANCES[runtime], rtol=0
    )
    np.testing.assert_allclose(model.embed(clip), answer["feats"], atol=Tolerances().hidden, rtol=0)
    frames = generate(name, clip, granularity="frame", extract_embedding=True)["feats"]
    np.testing.assert_allclose(model.embed(clip, granularity="frame"), frames, atol=Tolerances().hidden, rtol=0)


def test_the_headless_model_embeds_as_funasr_does(generate, loaded, speech):
    clip = speech[1]
    feats = generate("no-head", clip, granularity="utterance")["feats"]
    np.testing.assert_allclose(loaded("no-head", "cpu").embed(clip), feats, atol=Tolerances().hidden, rtol=0)
