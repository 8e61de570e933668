"""`e2v listen` and `e2v express` in a process of their own: in a pipe, on a terminal, with a microphone."""

import array
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyte
import pytest
import soundfile
import soxr

from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.cli.voice import _judges
from e2v_port.emotions import taxonomy
from e2v_port.errors import AudioError
from e2v_port.expression import profiles
from e2v_port.expression.apply import apply
from e2v_port.expression.engines import ENGINES, to_engine
from e2v_port.expression.respond import STRATEGIES, respond
from e2v_port.expression.ssml import DIALECTS, to_ssml
from e2v_port.live.backends import BACKENDS
from e2v_port.live.detector import EmotionDetector
from e2v_port.live.sources import Pipe
from e2v_port.prosody.baseline import Baseline

E2V = Path(sys.executable).with_name("e2v")
CLIPS = Path(__file__).parents[1] / "benchmarks" / "speech"
CALM, QUICK = CLIPS / "calm.flac", CLIPS / "quick.flac"
PAUSE = np.zeros(2 * SAMPLING_RATE, np.float32)  # ends a segment
HIDDEN = (
    "E2V_",
    "XDG_",
    "PULSE_",
    "ALSA_",
    "TTY_",
    "FORCE_COLOR",
    "NO_COLOR",
    "COLORTERM",
    "PYTHONI",
    "PYTHONU",
    "COLUMNS",
)
STEP = 1 / 32768  # of 16-bit samples

Rows = list[dict[str, Any]]

linux = pytest.mark.skipif(sys.platform != "linux", reason="ALSA is Linux's")


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(HIDDEN)}
    kept |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "TERM": "xterm", "E2V_OFFLINE": "1"}
    return kept | {"E2V_LICENCE": "accepted", "OMP_WAIT_POLICY": "passive"} | more


@contextmanager
def started(
    *arguments: str | Path, folder: Path, variables: dict[str, str] | None = None, **streams: Any
) -> Iterator[Any]:
    """Runs a command, which does not outlive the block."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    with subprocess.Popen(
        arguments, cwd=folder, env=environment(folder, **(variables or {})), start_new_session=True, **streams
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def drained(pipe: Any) -> None:
    """Waits until a process has read all that was written to it."""
    left = array.array("i", [1])
    while left[0]:
        fcntl.ioctl(pipe, termios.FIONREAD, left)
        time.sleep(0.02)


def run(*arguments: str | Path, folder: Path, data: bytes = b"", **more: Any) -> tuple[int, str, str]:
    """Runs `e2v` to its end: exit code, stdout, stderr."""
    with started(E2V, *arguments, folder=folder, stdin=subprocess.PIPE, **more) as process:
        out, err = process.communicate(data, timeout=120)
        return process.returncode, (out or b"").decode(), err.decode()


def rows(out: str) -> Rows:
    return [json.loads(line) for line in out.splitlines()]


def headline(row: dict[str, Any]) -> str | None:
    return row["emotion"] and row["emotion"]["primary"]


def finals(found: Rows) -> Rows:
    """Returns the final segments without the fields that depend on the time of day."""
    return [{key: row[key] for key in row if key not in {"at", "latency"}} for row in found if row["final"]]


def assert_close(found: Any, expected: Any) -> None:
    """Compares everything, numbers within 2e-5: another process may add in another order."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert_close(found[name], value)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=2e-5)
    else:
        assert found == expected


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sentences and the pause between them, 16 bits."""
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    soundfile.write(path, np.concatenate([load_audio(CALM), PAUSE, load_audio(QUICK)]), SAMPLING_RATE)
    return path


@pytest.fixture(scope="module")
def expected(talk: Path) -> Rows:
    """The segments of the library for them."""
    segments = EmotionDetector(runtime="cpu").analyze(talk).segments
    return finals([segment.to_dict() for segment in segments])


# ---- results and their times


def test_a_file_is_followed_at_its_own_pace(talk: Path, expected: Rows, tmp_path: Path) -> None:
    """Each result comes as soon as it can, with its delay, and the final ones are those of the library."""
    found, arrived = [], []
    with started(E2V, "listen", talk, "--jsonl", "-r", "cpu", folder=tmp_path) as process:
        for line in process.stdout:
            found.append(json.loads(line))
            arrived.append(time.monotonic())
        ended = time.monotonic()
        assert (process.wait(60), process.stderr.read()) == (0, b"")
    assert len(expected) == 2
    for ours, theirs in zip(finals(found), expected, strict=True):
        assert_close(ours, theirs)
    windows = [row for row in found if not row["final"]]
    assert len(windows) > 3
    assert all(row["end"] - row["start"] == pytest.approx(1, abs=0.001) for row in windows)
    assert found[-1]["latency"] is None, "it is final because the file has ended"
    # The start of the file by the clock of this test: every line must imply the same time.
    began = [at - row["end"] - row["latency"] for row, at in zip(found, arrived, strict=True) if row["latency"]]
    assert len(began) == len(found) - 1
    assert max(began) - min(began) < 2
    assert ended - min(began) > soundfile.info(talk).duration - 2
    first = next(row for row in found if row["final"])
    assert first["latency"] > 1.5, "it waits for a pause"


def test_as_fast_as_it_can_be_judged(talk: Path, expected: Rows, tmp_path: Path) -> None:
    code, out, err = run("listen", talk, "--fast", "--jsonl", "-r", "cpu", folder=tmp_path)
    assert (code, err) == (0, "")
    for ours, theirs in zip(finals(rows(out)), expected, strict=True):
        assert_close(ours, theirs)
    assert {row["latency"] for row in rows(out)} == {None}


def test_samples_on_standard_input(talk: Path, expected: Rows, tmp_path: Path) -> None:
    """The last sample is incomplete."""
    data = soundfile.read(talk, dtype="int16")[0].astype("<i2").tobytes() + b"\0"
    code, out, err = run("listen", "-", "--jsonl", "-r", "cpu", folder=tmp_path, data=data)
    assert (code, err) == (0, "")
    for ours, theirs in zip(finals(rows(out)), expected, strict=True):
        assert_close(ours, theirs)


def test_samples_come_in_blocks_of_any_size() -> None:
    integers = np.arange(-4000, 4000, dtype="<i2")
    data = integers.tobytes()
    reader, writer = os.pipe()
    blocks = iter(Pipe(reader, SAMPLING_RATE))
    found = []
    while data:
        size = (5, 3, 1, 999, 1600)[len(found) % 5]
        os.write(writer, data[:size])
        found.append(next(blocks).samples)
        data = data[size:]
    os.close(writer)
    assert not list(blocks)
    os.close(reader)
    np.testing.assert_array_equal(np.concatenate(found), integers / np.float32(32768))


def test_a_rate_of_samples_on_standard_input(expected: Rows, tmp_path: Path) -> None:
    """At half the rate, the times are the same; sound above 4 kHz is gone, so the judgement may differ."""
    narrow = soxr.resample(load_audio(CALM), SAMPLING_RATE, 8000)
    data = (narrow * 32767).astype("<i2").tobytes()
    code, out, err = run("listen", "-", "--rate", "8000", "--jsonl", "-r", "cpu", folder=tmp_path, data=data)
    assert (code, err) == (0, "")
    (segment,) = finals(rows(out))
    assert [segment["start"], segment["end"]] == pytest.approx([expected[0]["start"], expected[0]["end"]], abs=0.25)


def test_control_c_ends_the_sound_not_the_judging(talk: Path, expected: Rows, tmp_path: Path) -> None:
    data = soundfile.read(CALM, dtype="int16")[0].astype("<i2").tobytes()
    with started(E2V, "listen", "-", "--jsonl", "-r", "cpu", folder=tmp_path, stdin=subprocess.PIPE) as process:
        process.stdin.write(data)
        process.stdin.flush()
        while True:
            window = json.loads(process.stdout.readline())
            assert not window["final"]
            if window["end"] > 2:
                break
        drained(process.stdin)
        time.sleep(1)  # for what has been read to be taken
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, b"")
    (segment,) = finals(rows(out))
    assert_close(segment, expected[0])


def test_a_file_on_standard_input(tmp_path: Path) -> None:
    code, out, err = run("listen", "-", "--jsonl", "-b", "prosodic", folder=tmp_path, data=CALM.read_bytes())
    assert (code, out) == (2, "")
    assert re.fullmatch("error: .*a FLAC file, .*: name a file instead, or convert it: ffmpeg .*\n", err)


@pytest.mark.parametrize(("kind", "name"), [("FLAC", "a FLAC"), ("WAV", "a WAV"), ("OGG", "an Ogg"), ("MP3", "an MP3")])
def test_files_are_not_read_as_samples(kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "sound"
    soundfile.write(path, load_audio(CALM), SAMPLING_RATE, format=kind)
    data = path.read_bytes()
    if kind == "MP3":  # the usual start of an MP3 file
        data = b"ID3\4\0\0\0\0\0\0" + data
    path.write_bytes(data)
    with path.open("rb") as file, pytest.raises(AudioError, match=f"{name} file"):
        list(Pipe(file.fileno(), SAMPLING_RATE))


# ---- the display


def test_lines_in_a_pipe(talk: Path, expected: Rows, tmp_path: Path) -> None:
    code, out, err = run("listen", talk, "--fast", "-r", "cpu", folder=tmp_path)
    assert (code, err) == (0, "")
    head, *lines = out.splitlines()
    assert head.split() == ["start", "end", "emotion", "conf", "arousal", "dominance", "valence"]
    for line, row in zip(lines, expected, strict=False):
        start, end, emotion, confidence, _, *values = line.split()[:8]
        judged = row["emotion"]
        doubt = "uncertain" in judged["notes"]
        assert (emotion == "unclear") is doubt
        assert not doubt or judged["primary"] in line
        assert [float(start), float(end)] == pytest.approx([row["start"], row["end"]], abs=0.006)
        assert doubt or emotion == judged["primary"]
        assert float(confidence) == pytest.approx(judged["confidence"], abs=6e-4)
        numbers = [float(value.removeprefix("~")) for value in values]
        assert numbers == pytest.approx([*judged["avd_scores"].values()], abs=6e-4)
        assert all(reason in line for reason in row["reasons"])
    assert lines[2].startswith("[Voice ")
    assert "\x1b" not in out


def test_a_closed_pipe(talk: Path, tmp_path: Path) -> None:
    for form in [], ["--jsonl"]:
        reader, writer = os.pipe()
        os.close(reader)
        try:
            code, _, err = run("listen", talk, "--fast", "-r", "cpu", *form, folder=tmp_path, stdout=writer)
        finally:
            os.close(writer)
        assert (code, err) == (1, "")


class Terminal:
    """A terminal for a command, with a Ctrl-C to press."""

    def __init__(self, columns: int) -> None:
        self.ours, theirs = os.openpty()
        termios.tcsetwinsize(theirs, (40, columns))
        self.name = os.ttyname(theirs)
        self.theirs = theirs
        self.screen = pyte.Screen(columns, 40)
        self.stream = pyte.ByteStream(self.screen)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    @property
    def picture(self) -> dict[str, str]:
        """The moving lines, by their first word."""
        names = ("level", "now", "arousal", "valence")
        found = [line for line in self.lines if line.split(" ")[0] in names]
        parts = {name: rest.strip() for name, _, rest in (line.partition(" ") for line in found)}
        assert len(parts) == len(found), "\n".join(self.lines)  # drawn once
        return parts if len(parts) == 4 else {}  # otherwise it is being drawn

    def read(self, until: Callable[[], bool]) -> None:
        """Feeds the output of the command to the screen until a condition holds or the command ends."""
        while not until():
            try:
                data = os.read(self.ours, 65_536)
            except OSError:  # the other end is closed
                data = b""
            if not data:
                return
            self.stream.feed(data)


@pytest.mark.parametrize(
    ("columns", "variables", "sparks"),
    [(100, {}, "▁▂▃▄▅▆▇█"), (48, {"PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}, "0123456789")],
)
def test_the_view_on_a_terminal(
    columns: int, variables: dict[str, str], sparks: str, talk: Path, expected: Rows, tmp_path: Path
) -> None:
    """It moves during speech and keeps the lines of segments that have ended; Ctrl-C removes the rest."""
    terminal = Terminal(columns)
    # The first terminal that the leader of a session opens is the one whose Ctrl-C it gets.
    shell = ["sh", "-c", 'tty=$0; exec "$@" <$tty >$tty 2>&1', terminal.name, E2V, "listen", talk, "-r", "cpu"]
    with started(*shell, folder=tmp_path, variables=variables, stdout=None, stderr=None) as process:
        terminal.read(until=lambda: bool(terminal.picture.get("valence")))
        os.close(terminal.theirs)
        early = terminal.picture
        terminal.read(until=lambda: terminal.picture.get("now") == "-" and "~" in "".join(terminal.lines))
        later = terminal.picture
        terminal.read(until=lambda: len(terminal.picture.get("valence", "")) > len(later["valence"]))
        os.write(terminal.ours, b"\x03")
        terminal.read(until=lambda: False)
        assert process.wait(60) == 0
    os.close(terminal.ours)
    assert early["now"].removeprefix("unclear: ").removeprefix("perhaps ").split()[0] in taxonomy.labels("emotion2vec")
    assert re.match(r"-\d+ dB  [█#]", early["level"])
    for name in "arousal", "valence":
        assert set(later[name]) <= set(sparks)
        assert later[name].startswith(early[name])
        assert len(later[name]) > len(early[name])
    assert not terminal.picture
    assert not terminal.screen.cursor.hidden
    shown = "".join(terminal.screen.display)
    assert shown.count("dominance") == 2, "in the header and in the closing lines"
    assert "delay" not in shown
    assert shown.index("start") < shown.index(expected[0]["emotion"]["primary"]) < shown.index("[Voice ")


# ---- the microphone


def listening(code: str) -> list[str]:
    """Returns the command, with something missing."""
    return [sys.executable, "-c", f"{code}; from e2v_port.cli import main; main()", "listen"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.modules['sounddevice'] = None", r'sounddevice.*pip install "e2v-port\[mic\]"'),
        ("import ctypes.util; ctypes.util.find_library = lambda name: None", "PortAudio.*libportaudio2"),
    ],
)
def test_a_library_is_missing(code: str, message: str, tmp_path: Path) -> None:
    with started(*listening(code), folder=tmp_path) as process:
        out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, b"")
    assert re.fullmatch(f"error: (the )?microphone.*{message}\n", err.decode())


def need_portaudio() -> None:
    try:
        import sounddevice  # noqa: F401
    except (ImportError, OSError) as error:
        pytest.skip(f'{error}: pip install -e ".[mic]", apt-get install libportaudio2')


def test_no_microphone(tmp_path: Path) -> None:
    """Skipped on a machine that has one."""
    need_portaudio()
    with started(sys.executable, "-m", "sounddevice", folder=tmp_path) as process:
        if re.search(rb"[1-9]\d* in", process.communicate(timeout=300)[0]):
            pytest.skip("there is a microphone here")
    code, out, err = run("listen", folder=tmp_path)
    assert (code, out) == (2, "")
    assert re.fullmatch("error: no microphone found.*: name a file\n", err)


# ALSA reads silence from here, as fast as it is taken.
SILENCE = 'pcm.!default { type plug slave { pcm "null" format S16_LE rate 16000 channels 1 } }\n'


@linux
def test_sound_that_is_too_fast(tmp_path: Path) -> None:
    """ALSA's null device delivers sound faster than it can be judged: lost sound is reported."""
    need_portaudio()
    (tmp_path / ".asoundrc").write_text(SILENCE)
    with started(E2V, "listen", "-b", "prosodic", folder=tmp_path) as process:
        process.stdout.readline()
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0
    assert out.startswith(b"[No speech heard]")
    assert re.search(rb"^note: sound was lost \d+ times$", err, re.M)


@linux
def test_a_missing_device(tmp_path: Path) -> None:
    need_portaudio()
    (tmp_path / ".asoundrc").write_text(SILENCE)
    code, out, err = run("listen", "--device", "headset", folder=tmp_path)
    assert (code, out) == (2, "")
    assert re.fullmatch("error: microphone headset: .*: name one of these with --device: .*default.*\n", err)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A sound server without hardware, whose microphone records the sound played: the variables that lead to it."""
    need_portaudio()
    if missing := [name for name in ("pulseaudio", "paplay") if shutil.which(name) is None]:
        pytest.skip(f"{missing[0]} is not installed: apt-get install pulseaudio pulseaudio-utils libasound2-plugins")
    socket = tmp_path / "socket"
    (tmp_path / ".asoundrc").write_text("pcm.!default { type pulse }\nctl.!default { type pulse }\n")
    modules = [
        f"module-native-protocol-unix socket={socket} auth-anonymous=1",
        "module-null-sink sink_name=room rate=48000 channels=2",
    ]
    server = ["pulseaudio", "-n", "--exit-idle-time=-1", "--use-pid-file=no", "--disable-shm=yes"]
    server += [f"--load={module}" for module in modules]
    found = {"PULSE_SERVER": f"unix:{socket}", "PULSE_SOURCE": "room.monitor", "XDG_RUNTIME_DIR": str(tmp_path)}
    with started(*server, folder=tmp_path, variables=found, stderr=subprocess.DEVNULL) as process:
        while not socket.exists():
            assert process.poll() is None
            time.sleep(0.02)
        yield found | {"server": str(process.pid)}


@linux
def test_a_microphone_until_it_is_unplugged(talk: Path, expected: Rows, room: dict[str, str], tmp_path: Path) -> None:
    server = int(room.pop("server"))
    with started(E2V, "listen", "--jsonl", "-r", "cpu", folder=tmp_path, variables=room) as process:
        with started("pactl", "subscribe", folder=tmp_path, variables=room) as events:
            for line in events.stdout:  # until it is recorded
                if b"'new' on source-output" in line:
                    break
        soundfile.write(tmp_path / "played.wav", np.concatenate([PAUSE, load_audio(talk), PAUSE]), SAMPLING_RATE)
        found: Rows = []
        reader = threading.Thread(target=lambda: [found.append(json.loads(line)) for line in process.stdout])
        reader.start()
        for _ in range(5):  # the server plays with gaps while the machine is busy: then once more
            with started("paplay", "--device=room", "played.wav", folder=tmp_path, variables=room) as playing:
                assert playing.wait(60) == 0
            time.sleep(1)
            if was_heard(found, expected):
                break
        os.kill(server, signal.SIGKILL)
        reader.join(60)
        assert process.wait(60) == 1
        assert re.search(rb"^error: microphone default: it is gone$", process.stderr.read(), re.M)
    assert was_heard(found, expected)
    assert all(row["latency"] > 0 for row in found if row["latency"] is not None)


def was_heard(found: Rows, expected: Rows) -> bool:
    """Whether each expected segment is among the final ones, by its headline and its length."""
    heard = [(headline(row), row["end"] - row["start"]) for row in finals([*found])]
    return all((headline(row), pytest.approx(row["end"] - row["start"], abs=0.25)) in heard for row in expected)


# ---- a speaker, and an answer


@pytest.fixture(scope="module")
def neutral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three neutral sentences."""
    path = tmp_path_factory.mktemp("neutral") / "neutral.wav"
    spoken = [np.concatenate([load_audio(CLIPS / f"{name}.flac"), PAUSE]) for name in ("calm", "low", "calm")]
    soundfile.write(path, np.concatenate(spoken), SAMPLING_RATE)
    return path


def test_the_baseline_of_a_speaker(neutral: Path, talk: Path, tmp_path: Path) -> None:
    (tmp_path / "ann.json").write_text("an older one")
    code, _, err = run("listen", talk, "--fast", "-b", "prosodic", "--calibrate", "ann.json", folder=tmp_path)
    assert code == 2
    assert re.fullmatch("error: --calibrate ann.json: .*samples.*\n", err)
    assert (tmp_path / "ann.json").read_text() == "an older one"

    code, _, err = run("listen", neutral, "--fast", "-b", "prosodic", "--calibrate", "ann.json", folder=tmp_path)
    assert (code, err) == (0, "")
    segments = EmotionDetector(backend="prosodic").analyze(neutral).segments
    assert len(segments) == 3
    known = Baseline.load(tmp_path / "ann.json")
    assert known == Baseline.of([segment.prosody for segment in segments])

    options = ["-b", "prosodic", "--baseline", "ann.json"]
    code, out, err = run("listen", talk, "--fast", "--jsonl", *options, folder=tmp_path)
    assert (code, err) == (0, "")
    judged = [EmotionDetector(backend="prosodic", baseline=baseline).analyze(talk) for baseline in (known, None)]
    with_baseline, without = (finals([segment.to_dict() for segment in analysis.segments]) for analysis in judged)
    assert finals(rows(out)) == with_baseline != without


@pytest.fixture(scope="module")
def reply(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a speech engine, on two channels."""
    path = tmp_path_factory.mktemp("reply") / "reply.wav"
    waveform = soxr.resample(load_audio(CLIPS / "bright.flac"), SAMPLING_RATE, 22_050)
    soundfile.write(path, np.stack([waveform, 0.5 * waveform], axis=1), 22_050)
    return path


def assert_spoken(out: Path, reply: Path, parameters: profiles.ProsodyParameters) -> None:
    """It equals the output of the library for the mean of the channels, at the rate of the reply, in 16 bits."""
    samples, rate = soundfile.read(out, dtype="float32")
    source, its_rate = soundfile.read(reply, dtype="float32")
    assert rate == its_rate == 22_050
    np.testing.assert_allclose(samples, apply(source.mean(axis=1), rate, parameters), atol=1.01 * STEP)


def test_an_answer_in_a_fitting_tone(talk: Path, expected: Rows, reply: Path, tmp_path: Path) -> None:
    options = ["--speak-as", "complement", "--reply", reply, "--out", "answer.flac"]
    code, out, err = run("listen", talk, "--fast", "--jsonl", "-r", "cpu", *options, folder=tmp_path)
    assert code == 0
    last = rows(out)[-1]
    assert last["final"]
    heard = last["emotion"]
    shade = heard["shade"]["name"]
    response = respond(shade, heard["confidence"], "complement")
    why = f"complement of {heard['primary']} {heard['confidence']:.2f}"
    why += f", shade {shade}" if shade != heard["primary"] else ""
    assert err == f"answer.flac: spoken as {response.emotion} ({why})\n"
    assert_spoken(tmp_path / "answer.flac", reply, response.parameters)


SILENT = "quiet.wav: silence: no sound above the last bit"


def test_an_answer_to_nothing(reply: Path, tmp_path: Path) -> None:
    """No strategy answers silence; a tone by its name needs no answer."""
    soundfile.write(tmp_path / "quiet.wav", PAUSE, SAMPLING_RATE)
    command = ["listen", "quiet.wav", "--fast", "-b", "prosodic", "--reply", reply, "--out", "answer.wav", "--speak-as"]
    code, out, err = run(*command, "match", folder=tmp_path)
    assert (code, out.splitlines()[1]) == (1, "[No speech heard]")
    refusal = "error: --speak-as match: no emotion was heard to answer: answer.wav was not written"
    assert err.splitlines() == [SILENT, refusal]
    assert not (tmp_path / "answer.wav").exists()
    code, _, err = run(*command, "sad", folder=tmp_path)
    assert (code, err.splitlines()) == (0, [SILENT, "answer.wav: spoken as sad (as requested)"])
    assert_spoken(tmp_path / "answer.wav", reply, profiles.parameters("sad"))


# ---- express


def test_text_in_the_tone_of_an_emotion(tmp_path: Path) -> None:
    text = 'Tom & Jerry <3 "all" is well. Really.'
    options = ["--intensity", "0.5", "--language", "en-GB", "--voice", "Ann"]
    parameters = profiles.parameters("sad", 0.5)
    code, out, err = run("express", text, "--emotion", "sad", folder=tmp_path)
    assert (code, out, err) == (0, to_ssml(text, profiles.parameters("sad")) + "\n", "")
    for dialect in DIALECTS:
        code, out, err = run("express", text, "--emotion", "sad", *options, "--ssml", dialect, folder=tmp_path)
        assert (code, err) == (0, "")
        assert out == to_ssml(text, parameters, dialect, language="en-GB", voice="Ann") + "\n"
        assert " ".join("".join(ElementTree.fromstring(out).itertext()).split()) == text


def test_settings_of_speech_engines(tmp_path: Path) -> None:
    for engine in ENGINES:
        code, out, err = run("express", "--emotion", "angry", "--engine", engine, folder=tmp_path)
        assert (code, err) == (0, "")
        assert json.loads(out) == to_engine(profiles.parameters("angry"), engine)


def test_names_in_the_help(tmp_path: Path) -> None:
    def listed(names: tuple[str, ...]) -> str:
        return "".join(f"{', '.join(names[:-1])} or {names[-1]}".split())

    express, listen = ("".join(run(name, "--help", folder=tmp_path)[1].split()) for name in ("express", "listen"))
    assert "dialect:" + listed(DIALECTS) in express
    assert "engineinstead:" + listed(ENGINES) in express
    assert "--reply:" + listed(STRATEGIES) in listen
    assert f"<{'|'.join(BACKENDS)}>" in listen


def test_speech_in_the_tone_of_an_emotion(reply: Path, tmp_path: Path) -> None:
    for name in "lower.wav", "UPPER.FLAC":
        code, out, err = run("express", reply, "--emotion", "panicked", "--out", name, folder=tmp_path)
        assert (code, out, err) == (0, "", "")
        assert_spoken(tmp_path / name, reply, profiles.parameters("panicked"))
    assert soundfile.info(tmp_path / "lower.wav").format == "WAV"
    assert soundfile.info(tmp_path / "UPPER.FLAC").format == "FLAC"


SPEECH = str(CALM)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["listen", SPEECH, "--device", "x"], "--device x: .*microphone"),
        (["listen", "--fast"], "--fast needs a file"),
        (["listen", "missing.wav"], "missing.wav: .*No such file"),
        (["listen", SPEECH, "--speak-as", "sad"], "--speak-as, --reply and --out belong together"),
        (["listen", SPEECH, "--out", "a.wav"], "--speak-as, --reply and --out belong together"),
        (["listen", SPEECH, "--speak-as", "x", "--reply", SPEECH, "-o", "a.wav"], "--speak-as x: .*match.*anxious"),
        (["listen", SPEECH, "--speak-as", "sad", "--reply", "no.wav", "-o", "a.wav"], "no.wav: .*No such file"),
        (["listen", SPEECH, "--speak-as", "sad", "--reply", SPEECH, "-o", "a.mp3"], "--out a.mp3: .*.wav or .flac"),
        (["listen", SPEECH, "--calibrate", "no/a.json"], "--calibrate no/a.json: no is not a writable folder"),
        (["listen", SPEECH, "--baseline", "no.json"], "no.json: cannot be read .*: name the file that .*"),
        (["listen", SPEECH, "--backend", "bundled", "--model", "bundled"], ".*bundled.*"),
        (["listen", "-", "--rate", "0"], ".*rate.*"),
        (["express", "text", "-e", "grumpy"], ".*'grumpy'.*anxious.*"),
        (["express", "text", "-e", "sad", "--intensity", "3"], ".*intensity.*3.*"),
        (["express", "text", "-e", "sad", "--ssml", "x"], ".*'x'.*w3c.*"),
        (["express", "text", "-e", "sad", "--ssml", "w3c", "-o", "a.wav"], "--out a.wav .*--ssml"),
        (["express", "text", "-e", "sad", "--ssml", "azure"], "azure .*voice"),
        (["express", "-e", "sad"], "nothing to express: pass a text"),
        (["express", "-e", "sad", "--engine", "x"], ".*'x'.*piper"),
        (["express", "-e", "sad", "--engine", "rvc", "-o", "a.wav"], "--engine rvc prints settings: "),
        (["express", "text", "-e", "sad", "-o", "a.wav"], "text: .*No such file"),
        (["express", SPEECH, "-e", "sad"], ".*calm.flac is a file: .*--out"),
        (["express", SPEECH, "-e", "sad", "-o", "no/a.wav"], "--out no/a.wav: no is not a writable folder"),
        (["express", SPEECH, "-e", "sad", "-o", "a.txt"], "--out a.txt: .*.wav or .flac"),
    ],
)
def test_refusals(arguments: list[str], message: str, tmp_path: Path) -> None:
    code, out, err = run(*arguments, folder=tmp_path)
    assert (code, out) == (2, "")
    assert re.fullmatch(f"error: {message}.*\n", err)
    assert not list(tmp_path.glob("a.*"))


@pytest.mark.parametrize(
    ("backend", "shown"),
    [
        (None, "bundled on cpu"),
        ("bundled", "bundled on cpu"),
        ("hybrid", "hybrid, bundled on cpu"),
        ("prosodic", "prosodic"),
    ],
)
def test_who_judges_is_named_once(backend: str | None, shown: str) -> None:
    assert _judges(EmotionDetector(backend=backend, runtime="cpu")) == shown
