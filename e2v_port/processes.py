"""Child processes that end with their parent, and the memory that a process has taken."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

__all__ = ["end_with_parent", "peak_memory"]


def end_with_parent() -> None:
    """Makes this process end when its parent does, and ignore signals until then.

    A signal such as Ctrl-C may reach a whole process group; only the parent decides what happens to work in progress.
    """
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # the parent was killed: nobody waits for the results

    threading.Thread(target=watch, daemon=True).start()


def peak_memory() -> int:
    """Returns the peak resident memory of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss includes the process as it was before it became Python
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
