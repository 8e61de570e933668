"""Child processes that end with their parent."""

import os
import signal
import threading
import time

__all__ = ["end_with_parent"]


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
