"""What can be said of vLLM's app without vLLM."""

from __future__ import annotations

import multiprocessing
import threading
import time
from multiprocessing import connection

from fairgate.engines.vllm_app import _wait_for


async def test_a_process_that_others_wait_for_too_is_gone_when_it_is_waited_for() -> None:
    for _ in range(20):
        process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
        process.start()

        def watch(watched: multiprocessing.process.BaseProcess = process) -> None:
            connection.wait([watched.sentinel])
            watched.is_alive()

        watchers = [threading.Thread(target=watch) for _ in range(2)]
        for watcher in watchers:
            watcher.start()
        process.kill()
        await _wait_for([process])
        assert process not in multiprocessing.active_children()
        for watcher in watchers:
            watcher.join()
