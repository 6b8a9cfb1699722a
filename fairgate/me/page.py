"""The report as a plain page: no script, light and dark, for a phone as for a desk."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from html import escape
from http import HTTPStatus
from importlib import resources

from fairgate.errors import Refusal
from fairgate.me.report import LaneReport, PoolReport, Quota, Report, TenantPlace, Use, UserPlace

REFRESH_S = 10

_STYLE = (resources.files("fairgate") / "me" / "page.css").read_text("utf-8")

_DIGEST = base64.b64encode(sha256(_STYLE.encode()).digest())

POLICY = (
    b"default-src 'none'; style-src 'sha256-" + _DIGEST + b"'; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of these pages: this one style sheet and nothing else."""

_LIMITS = {
    "rpm": "Requests per minute",
    "tpm": "Tokens per minute",
    "concurrency": "Requests at once",
    "daily_tokens": "Tokens per day (UTC)",
}
_THROTTLE = {
    "overload": "limits per minute count only while the engines are full",
    "always": "limits per minute always count",
    "never": "limits per minute do not count",
}


def refresh_of(query: Mapping[str, Sequence[str]]) -> int | None:
    """Seconds after which the page loads itself again: only where the reader asked for it."""
    return REFRESH_S if "refresh" in query else None


def render(found: Report, refresh_s: int | None = None) -> bytes:
    """The page of ``found``, in UTF-8."""
    return _document(f"{found.tenant} · fairgate", "".join(_body(found, refresh_s)), refresh_s)


def render_refusal(refusal: Refusal) -> bytes:
    """A page that says why there is none."""
    title = HTTPStatus(refusal.status).phrase
    hint = ""
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        hint = _text("p", "Reload the page and give an API key as password; any user name will do.")
    return _document(title, _text("h1", title) + _text("p", refusal.message) + hint)


def _document(title: str, body: str, refresh_s: int | None = None) -> bytes:
    again = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="robots" content="noindex">{again}{_text("title", title)}'
        f"<style>{_STYLE}</style></head><body><main>{body}</main></body></html>"
    ).encode("utf-8", "replace")


def _text(tag: str, text: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f"<{tag}{named}>{escape(text)}</{tag}>"


def _body(found: Report, refresh_s: int | None) -> Iterator[str]:
    key = f"{found.key.name} ({found.key.id})" if found.key.name else found.key.id
    yield _text("h1", found.tenant)
    apps = ", ".join(found.apps)
    yield _text("p", f"weight {found.weight:g} · key {key} · user {found.user}", "soft")
    yield _text("p", f"apps: {apps}", "soft")
    moment = f"as of {found.at[11:19]} UTC, {found.at[:10]}"
    link = (
        '<a href="?">stop refreshing</a>'
        if refresh_s
        else f'<a href="?refresh">refresh every {REFRESH_S} s</a>'
    )
    yield f'<p class="soft">{escape(moment)} · {link}</p>'
    for pool in found.pools:
        yield from _pool(pool)


def _pool(pool: PoolReport) -> Iterator[str]:
    yield f"<section>{_text('h2', f'Pool {pool.name}')}"
    yield _text("p", f"policy {pool.policy}: {_THROTTLE[pool.throttle]}", "soft")
    yield '<div class="cards">'
    yield _use("Your tenant", pool.tenant)
    yield _use("This user", pool.user)
    yield '</div><div class="cards">'
    yield _card("Share of the pool", _list(_share(pool)))
    for lane in pool.lanes:
        yield _lane(lane)
    yield "</div></section>"


def _share(pool: PoolReport) -> Iterator[tuple[str, str]]:
    yield "you run now", _percent(pool.share.running)
    yield "fair by weight now", _percent(pool.share.fair)


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{part:.0%}"


def _card(title: str, body: str) -> str:
    return f'<div class="card">{_text("h3", title)}{body}</div>'


def _list(rows: Iterator[tuple[str, str]]) -> str:
    return f"<dl>{''.join(_text('dt', name) + _text('dd', value) for name, value in rows)}</dl>"


def _lane(lane: LaneReport) -> str:
    state = _text("span", lane.state, f"state {lane.state}")
    places = _list(_places(lane))
    return f'<div class="card"><h3>Lane {escape(lane.name)}: {state}</h3>{places}</div>'


def _places(lane: LaneReport) -> Iterator[tuple[str, str]]:
    tenant, user = lane.tenant_position, lane.user_position
    yield "tenant", _place(tenant, tenant.tenants_ahead if tenant else 0, "tenant")
    yield "user", _place(user, user.users_ahead if user else 0, "user")


def _place(place: TenantPlace | UserPlace | None, peers: int, peer: str) -> str:
    if place is None:
        return "none in line"
    wait = "" if place.wait_s is None else f", {_seconds(place.wait_s)}"
    return f"{_count(peers, peer)}, {_count(place.requests_ahead, 'request')} ahead{wait}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return "less than 1 s"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    about = f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
    return f"about {about}"


def _use(title: str, use: Use) -> str:
    quotas = {label: getattr(use.limits, name) for name, label in _LIMITS.items()}
    bars = "".join(_quota(label, q) for label, q in quotas.items() if q.limit is not None)
    free = [label for label, q in quotas.items() if q.limit is None]
    rest = _text("p", f"Not limited: {', '.join(free)}", "soft quota") if free else ""
    return _card(title, _list(_numbers(use)) + bars + rest)


def _numbers(use: Use) -> Iterator[tuple[str, str]]:
    yield "running", f"{use.running:,}"
    yield "in line", f"{use.waiting:,}"
    yield "tokens today", f"{use.tokens_today:,}"
    yield "service counter", f"{use.service_counter:,.1f}"


def _quota(label: str, quota: Quota) -> str:
    used = f"{quota.used:,} of {quota.limit:,}"
    full = ' class="full"' if quota.remaining == 0 else ""
    bar = (
        f'<progress{full} max="{quota.limit}" value="{quota.used}"'
        f' aria-label="{escape(label)}"></progress>'
    )
    left = f"{quota.remaining:,} left"
    if quota.used and quota.reset_s:
        left += f", all of it in {_seconds(quota.reset_s)}"
    return (
        f'<div class="quota"><p class="row">{_text("span", label)}{_text("span", used)}</p>{bar}'
        f"{_text('span', left, 'soft')}</div>"
    )
