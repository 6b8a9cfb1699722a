"""What one vLLM engine client in this process tells of its engine: capacity and load, without HTTP.

Imports vLLM. vLLM's Prometheus registry is of no use here: it belongs to the whole process, and
every further engine takes the metrics of those before it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm.v1.metrics.loggers import AggregateStatLoggerBase

from fairgate.engines.base import EngineStatus


@dataclass(frozen=True, slots=True)
class _Load:
    """Of one rank, at its last step."""

    running: int
    waiting: int
    kv_usage: float


class EngineStats(AggregateStatLoggerBase):
    """Listens to the statistics that the engine sends with its outputs.

    ``client`` is vLLM's ``AsyncLLM``. With ``--disable-log-stats`` it sends none: then the load is
    not told, and only the capacity is.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._config = client.vllm_config
        self._loads: dict[int, _Load] = {}
        manager = client.logger_manager
        self._told = manager is not None
        if self._told:
            manager.stat_loggers.append(self)

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        """Called by vLLM for every step of its engine."""
        if scheduler_stats is not None:
            waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            self._loads[engine_idx] = _Load(
                scheduler_stats.num_running_reqs, waiting, scheduler_stats.kv_cache_usage
            )

    def log_engine_initialized(self) -> None:
        """Nothing to say."""

    @property
    def priority(self) -> bool:
        """It runs with ``--scheduling-policy priority``."""
        return bool(self._config.scheduler_config.policy == "priority")

    async def status(self) -> EngineStatus:
        """The engine as it is now. Never raises for one that is dead."""
        try:
            await self._client.check_health()
        except Exception as error:  # whatever its version calls a dead engine
            return EngineStatus(up=False, detail=f"{type(error).__name__}: {error}")
        ranks = len(self._client.engine_core.engine_ranks_managed) or 1
        tokens = self._config.cache_config.kv_cache_size_tokens
        loads = self._loads.values()
        return EngineStatus(
            up=True,
            models=self._models(),
            context_tokens=self._config.model_config.max_model_len,
            max_num_seqs=ranks * self._config.scheduler_config.max_num_seqs,
            kv_cache_tokens=ranks * tokens if tokens else None,
            num_requests_running=sum(load.running for load in loads) if self._told else None,
            num_requests_waiting=sum(load.waiting for load in loads) if self._told else None,
            kv_cache_usage=max((load.kv_usage for load in loads), default=0.0)
            if self._told
            else None,
        )

    def _models(self) -> tuple[str, ...]:
        served = self._config.model_config.served_model_name
        return (served,) if isinstance(served, str) else tuple(served)
