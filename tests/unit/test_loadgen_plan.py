"""The plan of a replay: cutting and stretching, tenants and users, floods, interactions."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from loadgen.arrivals import Arrivals, Lengths
from loadgen.errors import SpecError
from loadgen.floods import Flood
from loadgen.plan import build_plan
from loadgen.records import Call, Chain, TraceRequest
from loadgen.tenants import Skew, Tenant, read_tenants, read_weights

DEMO = "acme=fg-demo-acme:1,globex=fg-demo-globex:1,initech=fg-demo-initech:1"


def trace(n: int, gap_s: float = 0.1) -> list[TraceRequest]:
    return [TraceRequest(i * gap_s, 100 + i % 7, 10 + i % 3) for i in range(n)]


def calls(plan: list[Chain]) -> list[Call]:
    return [call for chain in plan for call in chain.calls]


class TestArrivals:
    def test_alone_each_option_keeps_the_speed_or_the_whole_trace(self) -> None:
        assert len(Arrivals(limit=10).fit(trace(100))) == 10
        assert len(Arrivals(duration_s=2.05).fit(trace(100))) == 21
        faster = Arrivals(rate=100).fit(trace(100))
        assert len(faster) == 100
        assert faster[-1].at_s == pytest.approx(0.99)

    def test_two_of_limit_duration_rate_fix_the_third(self) -> None:
        by_rate = Arrivals(rate=4, duration_s=5).fit(trace(100))
        assert len(by_rate) == 20
        assert by_rate[-1].at_s == pytest.approx(4.75)
        assert Arrivals(rate=4, limit=20).fit(trace(100)) == by_rate
        assert Arrivals(limit=20, duration_s=5).fit(trace(100)) == by_rate

    def test_start_cuts_and_begins_at_zero(self) -> None:
        part = Arrivals(start_s=9.5).fit(trace(100))
        assert part[0].at_s == 0.0
        assert len(part) == 5

    def test_time_scale_stretches_and_duration_then_cuts(self) -> None:
        assert Arrivals(time_scale=2, limit=3).fit(trace(9))[-1].at_s == pytest.approx(0.4)
        assert len(Arrivals(time_scale=2, duration_s=0.5).fit(trace(9))) == 3

    def test_one_request_or_all_at_once(self) -> None:
        assert len(Arrivals(rate=5).fit(trace(1))) == 1
        assert [r.at_s for r in Arrivals(rate=5).fit(trace(3, gap_s=0))] == [0, 0, 0]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"rate": 0}, "--rate: expected a number > 0, got 0"),
            ({"duration_s": float("nan")}, "--duration: expected"),
            ({"start_s": -1}, "--start: expected"),
            ({"rate": 1, "time_scale": 1}, "both set the speed"),
            ({"rate": 1, "limit": 1, "duration_s": 1}, "two of them fix the third"),
        ],
    )
    def test_contradictions(self, options: dict[str, float], message: str) -> None:
        with pytest.raises(SpecError, match=message):
            Arrivals(**options)  # type: ignore[arg-type]

    def test_start_after_the_end(self) -> None:
        with pytest.raises(SpecError, match="no request after that"):
            Arrivals(start_s=1e6).fit(trace(3))

    def test_lengths_scale_then_cap_and_keep_one_token(self) -> None:
        lengths = Lengths(scale=0.1, max_prompt=50)
        assert lengths.fit(TraceRequest(0, 1000, 4)) == TraceRequest(0, 50, 1)


class TestTenants:
    def test_inline_and_file_say_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ACME_KEY", "k:1")
        path = tmp_path / "tenants.yaml"
        path.write_text("tenants:\n  acme: {key: '${ACME_KEY}', share: 3}\n  b: {key: x}\n")
        assert read_tenants(str(path)) == read_tenants("acme=k:1:3, b=x")

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("acme", "neither a file nor"),
            ("acme=", "expected NAME=KEY"),
            ("a=k,a=k", "each name once"),
            ("a=k:none", "a: share: expected a number > 0, got 'none'"),
            ("a=k:0", "a: share: expected a number > 0, got '0'"),
        ],
    )
    def test_errors(self, spec: str, message: str) -> None:
        with pytest.raises(SpecError, match=message):
            read_tenants(spec)

    def test_errors_in_a_file_name_the_field(self, tmp_path: Path) -> None:
        path = tmp_path / "t.yaml"
        path.write_text("tenants: {acme: {key: k, shares: 2}}")
        with pytest.raises(SpecError, match=r"unknown field `shares` - at `\$.tenants"):
            read_tenants(str(path))

    def test_an_unset_variable_is_no_key(self, tmp_path: Path) -> None:
        path = tmp_path / "t.yaml"
        path.write_text("tenants: {acme: {key: '${LOADGEN_TEST_UNSET}'}}")
        with pytest.raises(
            SpecError, match=r"tenants.acme.key: \$\{LOADGEN_TEST_UNSET\} is not set"
        ):
            read_tenants(str(path))

    def test_weights_override_the_spec(self) -> None:
        tenants = {"a": Tenant(key="k", weight=2), "b": Tenant(key="k")}
        assert read_weights("b=3", tenants) == {"a": 2, "b": 3}
        with pytest.raises(SpecError, match="c: not a tenant; they are a, b"):
            read_weights("c=3", tenants)

    def test_skews(self) -> None:
        assert Skew.parse("none").shares(3) == [1, 1, 1]
        zipf = Skew.parse("zipf:1").shares(3)
        assert [share / zipf[0] for share in zipf] == pytest.approx([1, 1 / 2, 1 / 3])
        lognormal = Skew.parse("lognormal:2.7").shares(43)
        assert sum(lognormal[:8]) / 43 == pytest.approx(0.9, abs=0.05)  # ServeGen's top 8
        assert lognormal == sorted(lognormal, reverse=True)
        for text in ("even", "zipf:-1", "none:2"):
            with pytest.raises(SpecError, match="--skew"):
                Skew.parse(text)


class TestAssignment:
    def test_shares_hold_and_the_seed_decides(self) -> None:
        tenants = {"a": Tenant(key="k", share=3), "b": Tenant(key="k", share=1)}
        plan = build_plan(trace(4000), tenants, seed=1)
        assert plan == build_plan(trace(4000), tenants, seed=1)
        assert plan != build_plan(trace(4000), tenants, seed=2)
        assert Counter(c.tenant for c in calls(plan))["a"] == pytest.approx(3000, rel=0.05)
        assert [call.index for call in calls(plan)] == list(range(4000))

    def test_users_are_skewed_and_sessions_stay_with_one(self) -> None:
        tenants = {"a": Tenant(key="k", users=10), "b": Tenant(key="k", users=10)}
        plan = build_plan(trace(2000), tenants, skew=Skew("zipf"))
        users = Counter(call.user for call in calls(plan) if call.tenant == "a")
        assert len(users) == 10
        assert users.most_common(1)[0][0] == "a-user-0"
        session = [TraceRequest(i, 1, 1, session=f"s{i % 5}") for i in range(50)]
        senders = {(c.tenant, c.user, c.index % 5) for c in calls(build_plan(session, tenants))}
        assert len(senders) == 5

    def test_the_tenants_app_wins_over_the_traces(self) -> None:
        tenants = {"a": Tenant(key="k", app="chat"), "b": Tenant(key="k")}
        requests = [TraceRequest(i, 1, 1, app="code") for i in range(50)]
        apps = {(call.tenant, call.app) for call in calls(build_plan(requests, tenants))}
        assert apps == {("a", "chat"), ("b", "code")}


class TestFlood:
    tenants = read_tenants(DEMO)

    def test_it_adds_ten_times_the_mean_of_the_others_on_top(self) -> None:
        flood = Flood.parse("initech:10@60-120", self.tenants)
        calm = build_plan(trace(1800), self.tenants, seed=3)
        plan = build_plan(trace(1800), self.tenants, floods=[flood], seed=3)
        inside = Counter(c.calls[0].tenant for c in calm if 60 <= c.start_s < 120)
        mean = (inside["acme"] + inside["globex"]) / 2
        assert len(plan) - len(calm) == round(10 * mean)
        extra = Counter((c.start_s, c.calls[0].tenant) for c in plan)
        extra.subtract((c.start_s, c.calls[0].tenant) for c in calm)
        assert all(tenant == "initech" and 60 <= s < 120 for (s, tenant), n in extra.items() if n)
        assert min(extra.values()) == 0
        lengths = {(c.prompt_tokens, c.output_tokens) for c in calls(plan)}
        assert lengths == {(r.prompt_tokens, r.output_tokens) for r in trace(1800)}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("initech", "expected TENANT:FACTOR@START-END"),
            ("nobody:2@0-1", "no such tenant; they are acme"),
            ("initech:0@0-1", "expected FACTOR > 0"),
            ("initech:2@5-5", "START < END"),
        ],
    )
    def test_errors(self, text: str, message: str) -> None:
        with pytest.raises(SpecError, match=message):
            Flood.parse(text, self.tenants)

    def test_nothing_to_be_measured_against(self) -> None:
        with pytest.raises(SpecError, match="needs other tenants"):
            Flood.parse("a:2@0-1", {"a"})
        with pytest.raises(SpecError, match="no other tenant sends anything between 500 and 600"):
            build_plan(trace(10), self.tenants, floods=[Flood("acme", 2, 500, 600)])


class TestInteractions:
    def test_lengths_follow_the_copilot_sample(self) -> None:
        plan = build_plan(trace(40_000, 0.01), {"a": Tenant(key="k")}, think_s=1.0)
        sizes = [len(chain.calls) for chain in plan]
        assert sum(sizes) == 40_000
        assert sizes.count(1) / len(sizes) == pytest.approx(0.69, abs=0.01)
        assert sum(sizes) / len(sizes) == pytest.approx(1.9, rel=0.1)
        assert 20 < max(sizes) <= 288

    def test_a_chain_is_one_users_and_keeps_the_load(self) -> None:
        tenants = {"a": Tenant(key="k", users=3), "b": Tenant(key="k")}
        plan = build_plan(trace(600), tenants, think_s=2.0, seed=5)
        plain = build_plan(trace(600), tenants, seed=5)
        per_user: dict[tuple[str, str | None], list[tuple[int, int]]] = defaultdict(list)
        for call in calls(plain):
            per_user[call.tenant, call.user].append((call.prompt_tokens, call.output_tokens))
        for chain in plan:
            first = chain.calls[0]
            assert {(c.tenant, c.user, c.interaction) for c in chain.calls} == {
                (first.tenant, first.user, first.interaction)
            }
            assert [c.number for c in chain.calls] == list(range(first.calls))
            assert first.think_s == 0
        kept = sorted((c.prompt_tokens, c.output_tokens) for c in calls(plan))
        assert kept == sorted(length for lengths in per_user.values() for length in lengths)
        assert len({chain.calls[0].interaction for chain in plan}) == len(plan)
        assert [chain.start_s for chain in plan] == sorted(chain.start_s for chain in plan)
