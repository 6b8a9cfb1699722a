"""The faults, one module for each thing that fails."""

from __future__ import annotations

from tests.faults.faults import Fault
from tests.faults.rows.clients import clients
from tests.faults.rows.engines import engines
from tests.faults.rows.failover import failover
from tests.faults.rows.gateways import gateways
from tests.faults.rows.store import store

FAULTS: dict[str, Fault] = {
    fault.name: fault
    for registry in (store, failover, gateways, engines, clients)
    for fault in registry.faults
}
