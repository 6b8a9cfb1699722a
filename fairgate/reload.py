"""Takes up changes of the configuration file while the gateway runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog
from msgspec.structs import replace

from fairgate.config import AppEngine, Config, Engine, HttpEngine, Lane, Pool
from fairgate.config.admin import Admin
from fairgate.errors import ConfigError

_log = structlog.get_logger(__name__)

# Read once at the start: sockets, connections and processes are made from them.
_FIXED_SECTIONS = ("server", "store", "timeouts", "max_choices", "admin", "usage")

Stamp = tuple[int, int, int]


class ConfigWatcher:
    """Watches one file and hands every good new state of it to ``apply``.

    A file that is wrong is reported and the configuration in force stays. So do parts that
    cannot change while the gateway runs (:func:`restart_needed`); the rest of the file is taken up.
    """

    def __init__(
        self,
        path: Path,
        load: Callable[[], Config],
        config: Config,
        apply: Callable[[Config], None],
        *,
        poll_s: float = 1.0,
    ) -> None:
        """``config`` is what runs now; ``load`` makes its like of the file anew, with whatever the
        command line adds, and is called in a thread. ``apply`` is called on the event loop and
        must not block.
        """
        self._path = path
        self._load = load
        self._config = config
        self._apply = apply
        self._poll_s = poll_s
        # None: the first look reloads, since the file may have changed while engines started.
        self._taken: Stamp | None = None
        self._one_at_a_time = asyncio.Lock()
        self._asked = asyncio.Event()

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._config

    def request_reload(self) -> None:
        """Have :meth:`run` reload at once. For ``loop.add_signal_handler(SIGHUP, ...)``."""
        self._asked.set()

    async def run(self) -> None:
        """Watch until cancelled; a cancellation leaves the configuration in force.

        A change counts once two looks in a row see the same file: half of a file that is still
        being written may be good YAML that lacks half of the tenants.
        """
        before = self._taken
        while True:
            asked = await self._pause()
            now = self._stamp()
            if asked or (now != self._taken and now == before):
                await self.reload()
            before = now

    async def reload(self) -> bool:
        """Read the file now; True when it is good (and in force as far as it can be).

        Cancelled: the old configuration or the new one is in force, never a mixture.
        """
        async with self._one_at_a_time:
            # Taken before reading: what is written from now on is a change again.
            self._taken = self._stamp()
            try:
                new = await asyncio.to_thread(self._load)
            except ConfigError as error:
                _log.error(
                    "config_rejected", file=str(self._path), problems=error.problems, kept="old"
                )
                return False
            return self._take_up(new)

    def _take_up(self, new: Config) -> bool:
        if ignored := restart_needed(self._config, new):
            _log.warning("config_needs_restart", file=str(self._path), ignored=ignored)
        effective = _live_part(self._config, new)
        if effective == self._config:
            _log.info("config_unchanged", file=str(self._path))
            return True
        try:
            self._apply(effective)
        except Exception:
            # The watcher must outlive a failing consumer: the next state of the file may do.
            _log.exception("config_not_applied", file=str(self._path))
            return False
        self._config = effective
        _log.info("config_reloaded", file=str(self._path), tenants=len(effective.tenants))
        return True

    async def _pause(self) -> bool:
        """Wait for the next look; True when a reload was asked for."""
        try:
            await asyncio.wait_for(self._asked.wait(), self._poll_s)
        except TimeoutError:
            return False
        self._asked.clear()
        return True

    def _stamp(self) -> Stamp | None:
        """Differs whenever the file was written or replaced, also through a symbolic link."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size


def restart_needed(old: Config, new: Config) -> list[str]:
    """Parts in which ``new`` differs from ``old`` and that only a restart can change, by path."""
    live = _live_part(old, new)
    changed = [name for name in _FIXED_SECTIONS if getattr(live, name) != getattr(new, name)]
    for pool in sorted(old.pools.keys() | new.pools.keys()):
        if pool not in old.pools or pool not in new.pools:
            changed.append(f"pools.{pool}")
        else:
            path = f"pools.{pool}.lanes"
            changed.extend(_changed_lanes(live.pools[pool], new.pools[pool], path))
    return changed


def _changed_lanes(live: Pool, new: Pool, path: str) -> list[str]:
    names = sorted(live.lanes.keys() | new.lanes.keys())
    return [f"{path}.{name}" for name in names if live.lanes.get(name) != new.lanes.get(name)]


def _live_part(old: Config, new: Config) -> Config:
    """``new``, with the parts that need a restart as they are in ``old``."""
    pools = {
        name: _live_pool(pool, new.pools[name]) if name in new.pools else pool
        for name, pool in old.pools.items()
    }
    fixed = {name: getattr(old, name) for name in _FIXED_SECTIONS}
    fixed["admin"] = _live_admin(old.admin, new.admin)
    return replace(new, pools=pools, **fixed)


def _live_admin(old: Admin, new: Admin) -> Admin:
    """Keys, the time of sessions, where engines may be; without keys, the API was not started."""
    keys = new.keys if old.keys else ()
    return replace(old, keys=keys, session_s=new.session_s, engines_at=new.engines_at)


def _live_pool(old: Pool, new: Pool) -> Pool:
    lanes = {
        name: _live_lane(lane, new.lanes[name]) if name in new.lanes else lane
        for name, lane in old.lanes.items()
    }
    return replace(old, policy=new.policy, routing=new.routing, lanes=lanes)


def _live_lane(old: Lane, new: Lane) -> Lane:
    engines = old.engines
    if len(engines) == len(new.engines):
        engines = tuple(map(_live_engine, engines, new.engines))
    return replace(old, price=new.price, headroom=new.headroom, queue=new.queue, engines=engines)


def _live_engine(old: Engine, new: Engine) -> Engine:
    """Whether it is drained; of one that is not started with it, also its capacity."""
    if isinstance(old, HttpEngine) and isinstance(new, HttpEngine):
        return replace(old, drained=new.drained, max_num_seqs=new.max_num_seqs)
    if isinstance(old, AppEngine) and isinstance(new, AppEngine):
        return replace(old, drained=new.drained, max_num_seqs=new.max_num_seqs)
    return replace(old, drained=new.drained) if type(old) is type(new) else old
