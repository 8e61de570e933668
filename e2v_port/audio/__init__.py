"""Audio -> waveforms for a model: mono float32 at 16 kHz, checked."""

from e2v_port.audio.channels import channel_name, channel_number
from e2v_port.audio.clip import (
    MAX_AMPLITUDE,
    MAX_CHANNELS,
    MIN_SAMPLES,
    SAMPLING_RATE,
    Clip,
    Waveform,
    clip_name,
)
from e2v_port.audio.features import Moments, mel_filters, normalize
from e2v_port.audio.live import LiveAudio
from e2v_port.audio.load import AudioStream, Sound, load_audio, load_sound, load_sounds, log_notes
from e2v_port.audio.notes import Note

__all__ = [
    "MAX_AMPLITUDE",
    "MAX_CHANNELS",
    "MIN_SAMPLES",
    "SAMPLING_RATE",
    "AudioStream",
    "Clip",
    "LiveAudio",
    "Moments",
    "Note",
    "Sound",
    "Waveform",
    "channel_name",
    "channel_number",
    "clip_name",
    "load_audio",
    "load_sound",
    "load_sounds",
    "log_notes",
    "mel_filters",
    "normalize",
]
