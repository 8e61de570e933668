"""Fresh Python processes for cold starts and peak memory.

`python -m e2v_port.bench.process` reads a task from its standard input as JSON, runs its clips, and prints the time and
the peak memory of its process as JSON.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from signal import Signals
from typing import Any

from e2v_port.architectures.config import ModelConfig
from e2v_port.bench import contenders
from e2v_port.errors import E2VError
from e2v_port.models.load import load
from e2v_port.processes import peak_memory

__all__ = ["alone", "fresh", "main"]


def fresh(arguments: list[str], text: str = "") -> str:
    """Runs Python with these arguments and `text` on its standard input, and returns its standard output.

    Raises:
        E2VError: The process failed.
    """
    # Without this variable compiled modules are kept between runs, as for any user.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"E2V_LICENCE": "accepted"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, input=text, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        raise E2VError(f"killed by {Signals(-done.returncode).name}: probably out of memory")
    if done.returncode:
        raise E2VError((done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:300])
    return done.stdout


def alone(task: Mapping[str, Any]) -> dict[str, Any]:
    """Runs `main` in a fresh process and returns its answer, or `failed` with the reason."""
    try:
        answer: dict[str, Any] = json.loads(
            fresh(["-m", "e2v_port.bench.process"], json.dumps(dict(task))).splitlines()[-1]
        )
    except E2VError as error:
        return {"failed": str(error)}
    return answer


def main() -> None:
    """Runs the clips of a task and prints the time and the peak memory of this process."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # if memory runs out, the kernel kills this process
    task = json.load(sys.stdin)
    if "peer" in task:
        contender = contenders.peer(ModelConfig.read(Path(task["folder"])), task["peer"])
    else:
        model = load(task["folder"], runtime=task["runtime"], dtype=task["dtype"], offline=True)
        contender = contenders.e2v(model, "e2v")
    start = time.perf_counter()
    contender.answer(task["clips"])
    took = time.perf_counter() - start
    print(json.dumps({"seconds": took, "peak_bytes": peak_memory(), "device_peak_bytes": _device_memory()}))


def _device_memory() -> int | None:
    """Returns the peak memory of this process on a GPU, in bytes; None without a GPU."""
    if "mlx.core" in sys.modules:
        return int(sys.modules["mlx.core"].get_peak_memory())
    torch = sys.modules.get("torch")
    return int(torch.cuda.max_memory_allocated()) if torch and torch.cuda.is_available() else None


if __name__ == "__main__":
    main()
