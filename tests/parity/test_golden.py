"""All runtimes against frozen stages of FunASR: runs where FunASR is not installed, too."""

import numpy as np
import pytest

import e2v_port
from e2v_port.checkpoints.checkpoint import local
from e2v_port.models import devices
from e2v_port.parity import emotion2vec as emotion2vec_reference
from e2v_port.parity import references, verify
from parity import golden


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    return golden.unpack(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("runtime", devices.RUNTIMES)
def test_every_stage_equals_the_frozen_one(runtime, frozen, tmp_path):
    if reason := devices.unavailable(runtime):
        pytest.skip(f"runtime {runtime}: {reason}")
    checkpoint, clip, stages = frozen
    model = e2v_port.load(e2v_port.convert(checkpoint, out=tmp_path / "model"), runtime=runtime)
    off = [check for check in verify.compare(model, stages, model.stages(clip, 16_000)) if not check.passed]
    assert not off, f"first off: {off[0]}"


@pytest.mark.skipif(not references.installed("emotion2vec"), reason="FunASR is not installed: pip install funasr")
def test_the_frozen_stages_are_those_of_the_installed_funasr(frozen):
    checkpoint, clip, stages = frozen
    now = emotion2vec_reference.FunASR(local(checkpoint)).stages(clip)
    assert now.keys() == stages.keys()
    for name, value in stages.items():
        np.testing.assert_allclose(now[name], value, atol=2e-5, rtol=0, err_msg=name)


def test_the_file_stays_small():
    assert golden.FILE.stat().st_size < 100_000
