"""Run a command for a gateway, and end its whole process group when the gateway lets go of it.

``python -IS guard.py GRACE_S COMMAND...``, as the leader of a new session, with standard input a
pipe that the gateway holds open. Every way in which the gateway can end closes that pipe, SIGKILL
included; the guard then sends SIGTERM to the command and, when it has ended or ``GRACE_S`` seconds
have passed, SIGKILL to all that is left of the group (vLLM's EngineCore and workers outlive a
killed API server: nobody else would end them). Exit status: that of the command, 128 + n for a
signal, 127 when it cannot be run. Standard library only, so that it starts in milliseconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def _end_when_let_go(
    child: subprocess.Popen[bytes], grace_s: float, let_go: threading.Event
) -> None:
    while os.read(0, 4096):
        pass
    let_go.set()
    child.terminate()
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        pass
    os.killpg(0, signal.SIGKILL)


def main(grace_s: float, command: list[str]) -> int:
    """Run ``command`` to its end; does not return when the gateway let go before that."""
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - the gateway's own
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    let_go = threading.Event()
    watcher = threading.Thread(target=_end_when_let_go, args=(child, grace_s, let_go), daemon=True)
    watcher.start()
    code = child.wait()
    if let_go.is_set():
        watcher.join()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
