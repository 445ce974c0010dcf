"""Lets a child process end with its launcher, even when the launcher is killed.

The launcher names itself in an environment variable; the child watches, in a thread, whether that is still its parent.
"""

from __future__ import annotations

import os
import signal
import threading
import time

PARENT_VARIABLE = "GRIDPACT_PARENT"
WATCH_S = 0.5
GRACE_S = 10.0


def end_with_parent() -> None:
    """Watch the launcher that started this process, if one did: SIGTERM to this process when it is gone, a hard end 10 s later."""
    parent = os.environ.pop(PARENT_VARIABLE, "")
    if parent.isdigit():
        threading.Thread(target=_watch, args=(int(parent),), name="parent-watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)
