"""Addresses of stores with several hosts, and a replica's share of everything."""

from __future__ import annotations

import pytest

from fairgate.admission.model import EngineReport
from fairgate.admission.share import less_held, share_of_engines, within
from fairgate.storeurl import parse_address


def test_sentinels_and_their_master_are_told_apart():
    url = "rediss+sentinel://me:p%40ss@a:1,b/my%20master/2?sentinel_password=s&ssl_ca_certs=x"
    address = parse_address(url)
    assert address is not None
    assert (address.hosts, address.master) == ((("a", 1), ("b", 26379)), "my master")
    assert address.url("::1", 7) == "rediss://me:p%40ss@[::1]:7/2?ssl_ca_certs=x"
    assert address.sentinel_url("a", 1) == "rediss://:s@a:1"


def test_one_server_is_left_to_redis_py():
    assert parse_address("redis://a/0") is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis+sentinel://a:1", "name of the master"),
        ("redis+cluster://a/1", "no database other than 0"),
        ("redis+cluster://", "expected hosts"),
        ("redis+ring://a", "got scheme 'redis\\+ring'"),
        ("redis+cluster://a:x", "Port could not be cast"),
    ],
)
def test_what_cannot_be_an_address_says_why(url, why):
    with pytest.raises(ValueError, match=why):
        parse_address(url)


@pytest.mark.parametrize("replicas", [1, 3, 4])
def test_shares_add_up_to_the_capacity(replicas):
    engines = [EngineReport("small", f"e{i}", up=True, max_num_seqs=5) for i in range(2)]
    shares = [share_of_engines(engines, replicas=replicas, rank=r) for r in range(replicas)]
    assert sum(report.max_num_seqs for share in shares for report in share) == 10


def test_nobody_is_shut_out_of_a_small_lane():
    engine = [EngineReport("small", "e0", up=True, max_num_seqs=1)]
    assert share_of_engines(engine, replicas=4, rank=3)[0].max_num_seqs == 1
    held = [("small", "e0", 10)]
    assert less_held(share_of_engines(engine, replicas=4, rank=3), held)[0].max_num_seqs == 0


def test_a_share_that_has_grown_is_bounded_by_the_one_that_was_told():
    engines = [EngineReport("small", f"e{i}", True, 9, kv_cache_tokens=90) for i in range(2)]
    told = share_of_engines(engines[:1], replicas=3, rank=0)
    grown = share_of_engines(engines, replicas=2, rank=0)
    bounded = within(grown, told)
    assert [(r.max_num_seqs, r.kv_cache_tokens) for r in bounded] == [(3, 30), (0, 45)]
    assert within(told, grown) == told
