"""Which descriptors a process has open, by what they lead to (Linux: from /proc)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path


def descriptors(pid: int, ports: Mapping[int, str]) -> Counter[str]:
    """Counts by kind: a socket is called as ``ports`` says of either of its ends, else ``socket``.

    Listening sockets count like others.
    """
    names = _names(ports)
    found = Counter[str]()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue  # closed meanwhile
        kind, _, rest = target.partition(":")
        found[names.get(rest.strip("[]"), kind) if kind == "socket" else "file"] += 1
    return found


def _names(ports: Mapping[int, str]) -> dict[str, str]:
    """Inodes of TCP sockets with such an end, and the name of it."""
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            ends = {int(fields[at].rpartition(":")[2], 16) for at in (1, 2)}
            for port in ends & ports.keys():
                found[fields[9]] = ports[port]
    return found
