"""Lets speechbrain be imported without torchaudio, which it asks for at import and its speaker encoders never call."""

import importlib.machinery
import importlib.util
import sys
import types


def stand_in() -> None:
    """Puts an empty module in torchaudio's place where that is not installed."""
    if "torchaudio" not in sys.modules and importlib.util.find_spec("torchaudio") is None:
        module = types.ModuleType("torchaudio")
        module.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
        module.__dict__["__version__"] = "2.8.0"
        module.__dict__["list_audio_backends"] = lambda: ["soundfile"]
        sys.modules["torchaudio"] = module


def forget_lazy() -> None:
    """Forgets what speechbrain would import on the first look: hypothesis, for one, looks at every module."""
    for name, module in list(sys.modules.items()):
        if name.startswith("speechbrain") and type(module).__name__ in {"LazyModule", "DeprecatedModuleRedirect"}:
            del sys.modules[name]
