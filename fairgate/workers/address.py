"""Sockets on the gateway's address that several processes may hold at once."""

from __future__ import annotations

import socket


def bound(host: str, port: int, *, shared: bool) -> socket.socket:
    """A socket bound to the address, not listening; connections are spread over all that listen.

    Not ``shared``, it is the only one. Raises ``OSError`` when the address is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((host, port))
    except BaseException:
        made.close()
        raise
    return made


def reserved(host: str, port: int) -> socket.socket:
    """A shared socket on an address that nobody else listens on; it keeps a chosen port taken.

    Raises ``OSError`` when the address is in use.
    """
    with bound(host, port, shared=False) as alone:
        port = alone.getsockname()[1]
    return bound(host, port, shared=True)
