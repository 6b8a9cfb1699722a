"""Keeps what one replica learned of a pool in step with the others, through the store."""

from __future__ import annotations

from fairgate.errors import StoreError
from fairgate.routing.debts import Debts
from fairgate.routing.satisfaction import Satisfaction
from fairgate.routing.sticky import Places
from fairgate.routing.store import News, RoutingStore


class Replicas:
    """The other replicas of a pool, as one of them deals with them."""

    def __init__(self, store: RoutingStore, debts: Debts, places: Places) -> None:
        self._store = store
        self._debts = debts
        self._places = places
        self._place = ""
        """In the order of interactions' lanes: up to where the others' are known."""

    async def exchange(self, name: str, learner: Satisfaction) -> bytes | None:
        """Tell what is new and take in what the others told; ``name`` is the learner's encoder.

        Returns what ``fairgate router record`` wants; ``None`` while the store is away: then all
        news are kept for the next time. Cancelled: what was on its way may be told or lost.
        """
        news = News(
            rows=learner.news(),
            places=self._places.news(),
            requests=self._debts.news(),
        )
        try:
            known = await self._store.sync(name, news, version=learner.version, place=self._place)
        except StoreError:
            learner.put_back(news.rows)
            self._places.put_back(news.places)
            self._debts.put_back(news.requests)
            return None
        self._place = known.place
        self._places.take_in(known.places)
        self._debts.take_in(known.debts)
        if known.rows is not None:
            learner.version = known.version
            learner.take_in(known.rows)
        return known.recording
