"""The dashboard in a real browser, over real gateways under a real flood."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from support.flood import flood
from support.gateway import Gateway, config, engine, gateway, lane, tenant

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ADMIN = "the-operators-key"
POOL = "dashboard"
WITHIN_MS = 15_000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian package chromium)"),
]


class Site(NamedTuple):
    """Two gateways over one store and one engine, under a flood."""

    gateways: list[Gateway]
    settings: dict[str, Any]
    folder: Path

    @property
    def url(self) -> str:
        return self.gateways[0].url


@pytest.fixture(scope="module")
def site(valkey_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("dashboard")
    with engine(folder) as one:
        settings = config(
            {"small": lane(one.url)},
            store=valkey_server,
            pool=POOL,
            tenants={"hog": tenant("hog"), "mild": tenant("mild", weight=2), "new": {"weight": 1}},
            admin={"keys": [{"sha256": hashlib.sha256(ADMIN.encode()).hexdigest(), "name": "ops"}]},
        )
        with (
            gateway(folder / "a", settings) as a,
            gateway(folder / "b", settings) as b,
            flood(a.url, {"hog": 24, "mild": 1}),
        ):
            it = Site([a, b], settings, folder)
            yield it
            assert it.gateways[1].stop() == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        it = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield it
        it.close()


class Watched:
    """A page, and what went wrong on it."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.page = context.new_page()
        self.page.set_default_timeout(WITHIN_MS)
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda m: m.type == "error" and self.errors.append(m.text))
        self.page.on("request", lambda r: r.url.startswith(origin) or self.foreign.append(r.url))


Open = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, site: Site) -> Iterator[Open]:
    """Opens pages, logged in unless told; in the end none may have had an error or left us."""
    made: list[Watched] = []
    contexts: list[BrowserContext] = []

    def open_page(path: str = "", *, url: str = "", logged_in: bool = True, **how: Any) -> Page:
        origin = url or site.url
        context = browser.new_context(**how)
        contexts.append(context)
        made.append(Watched(context, origin))
        page = made[-1].page
        page.goto(f"{origin}/fairgate/login")
        if logged_in:
            log_in(page)
            page.goto(f"{origin}/fairgate/{path}")
        return page

    open_page.watched = made  # type: ignore[attr-defined]
    yield open_page
    for context in contexts:
        context.close()
    for watched in made:
        assert not watched.errors
        assert not watched.foreign


def log_in(page: Page) -> None:
    page.get_by_label("Admin key").fill(ADMIN)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/fairgate/")


def test_the_overview_says_live_who_floods_and_who_is_protected(opened: Open) -> None:
    page = opened()
    summary = page.locator("#summary")
    expect(summary).to_contain_text("hog floods", timeout=WITHIN_MS)
    expect(summary).to_contain_text("mild is protected", timeout=WITHIN_MS)
    row = page.get_by_role("row", name=re.compile("hog"))
    expect(row.first).to_contain_text("floods")
    expect(page.locator("#waiting")).to_contain_text("hog")
    expect(page.locator("#lanes")).to_contain_text("saturated")
    expect(page.locator("#tiles")).to_contain_text("fairserve")
    expect(page.locator("[data-chart=service] canvas")).to_be_visible()
    expect(page.locator("[data-chart=service] .picture")).to_have_attribute(
        "aria-label", re.compile(r"hog \d")
    )


def test_what_has_the_focus_keeps_it_while_the_page_changes(opened: Open) -> None:
    page = opened()
    link = page.locator("#shares").get_by_role("link", name="hog")
    link.focus()
    tokens = page.locator("#shares tr[data-key=hog]")
    before = tokens.inner_text()
    expect(tokens).not_to_have_text(before, use_inner_text=True, timeout=WITHIN_MS)
    assert page.evaluate("document.activeElement.textContent") == "hog"


# Colours depend on the scheme alone, and what goes where on the width.
@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1280), ("dark", 390)], ids=["light-desk", "dark-phone"]
)
def test_every_page_is_accessible(opened: Open, scheme: Any, width: int) -> None:
    page = opened("", color_scheme=scheme, viewport={"width": width, "height": 900})
    for path in ("", "tenants", "tenants/hog", "audit"):
        page.goto(page.url.split("/fairgate/")[0] + f"/fairgate/{path}")
        if not path:
            expect(page.locator("#summary")).to_contain_text("hog", timeout=WITHIN_MS)
        check_accessible(page)
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("Admin key").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text(re.compile("unknown admin key", re.I))
    check_accessible(page)
    # The one error that the browser logs is the refusal itself.
    errors = opened.watched[-1].errors  # type: ignore[attr-defined]
    assert [e for e in errors if "401" not in e] == []
    errors.clear()


def check_accessible(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    overflow = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert overflow == 0, "the page scrolls sideways"


def test_the_keyboard_is_enough(opened: Open) -> None:
    page = opened(logged_in=False)
    expect(page.get_by_label("Admin key")).to_be_focused()
    page.keyboard.type(ADMIN)
    page.keyboard.press("Enter")
    page.wait_for_url("**/fairgate/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.get_by_role("button", name=re.compile("Colour scheme")).focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.get_by_role("link", name="Tenants", exact=True).focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/fairgate/tenants")
    page.get_by_role("link", name="hog").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/tenants/hog")
    page.get_by_role("button", name=re.compile("Revoke key")).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def status_of(url: str, key: str) -> int:
    """What a gateway says to ``key``."""
    request = urllib.request.Request(
        f"{url}/v1/models",
        headers={"authorization": f"Bearer {key}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def wait_for_status(url: str, key: str, status: int) -> None:
    until = time.monotonic() + WITHIN_MS / 1000
    while status_of(url, key) != status:
        assert time.monotonic() < until, f"it never answers {status}"
        time.sleep(0.05)


def test_a_key_made_here_opens_the_other_gateway_until_it_is_revoked(
    opened: Open, site: Site
) -> None:
    other = site.gateways[1].url
    page = opened("tenants/new")
    page.get_by_label("Name").fill("from the browser")
    page.get_by_role("button", name="Create key").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    secret = page.locator("#secret").inner_text()
    wait_for_status(other, secret, 200)
    dialog.get_by_role("button", name="Done").click()
    keys = page.locator("#keys")
    expect(keys).to_contain_text("from the browser")
    assert secret not in page.content()
    page.get_by_role("button", name="Revoke key from the browser").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(keys).not_to_contain_text("from the browser")
    wait_for_status(other, secret, 401)
    page.goto(f"{site.url}/fairgate/audit")
    expect(page.locator("#audit tbody tr")).to_have_count(2, timeout=WITHIN_MS)
    expect(page.locator("#audit")).to_contain_text("ops")


def test_weights_and_limits_are_changed_live_and_bad_ones_are_told(
    opened: Open, site: Site
) -> None:
    page = opened("tenants/mild")
    page.get_by_role("spinbutton", name="Weight").fill("3")
    page.get_by_role("group", name="The tenant").get_by_label("Requests per minute").fill("12345")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    page.goto(f"{site.gateways[1].url}/fairgate/login")
    log_in(page)
    expect(page.locator("#shares tr[data-key=mild] td").nth(1)).to_have_text("3", timeout=WITHIN_MS)
    page.goto(f"{site.gateways[1].url}/fairgate/tenants/mild")
    expect(
        page.get_by_role("group", name="The tenant").get_by_label("Requests per minute")
    ).to_have_value("12345")
    page.get_by_role("spinbutton", name="Weight").fill("0")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".terms output")).to_contain_text("weight")
    watched = opened.watched[-1]  # type: ignore[attr-defined]
    watched.foreign.clear()  # the other gateway, which we asked for
    watched.errors[:] = [error for error in watched.errors if " 422 " not in error]


def test_an_engine_is_drained_and_undrained_at_a_click(opened: Open) -> None:
    page = opened()
    row = page.locator("#lanes tr[data-key='small/small-0']")
    page.get_by_role("button", name="Drain small-0").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("small/small-0")
    dialog.get_by_role("button", name="Leave it").click()
    expect(row).not_to_contain_text("drained")
    page.get_by_role("button", name="Drain small-0").click()
    dialog.get_by_role("button", name="Drain").click()
    expect(row).to_contain_text("drained", timeout=WITHIN_MS)
    page.get_by_role("button", name="Undrain small-0").click()
    expect(row).not_to_contain_text("drained", timeout=WITHIN_MS)


def test_the_page_goes_on_by_itself_after_a_restart(opened: Open, site: Site) -> None:
    gate = site.gateways[1]
    page = opened(url=gate.url)
    expect(page.locator("#status")).to_have_text("live", timeout=WITHIN_MS)
    assert gate.stop() == 0
    expect(page.locator("#status")).to_have_text("reconnecting", timeout=WITHIN_MS)
    port = ("--port", str(gate.port))
    site.gateways[1] = Gateway(site.folder / "again", site.settings, *port, cwd=None)
    site.gateways[1].url = gate.url
    expect(page.locator("#status")).to_have_text("live", timeout=2 * WITHIN_MS)
    expect(page.locator("#summary")).to_contain_text("hog", timeout=WITHIN_MS)
    # What the browser logs of the connection that was away.
    opened.watched[-1].errors.clear()  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", ["", "tenants", "tenants/hog", "audit"])
def test_pages_lead_to_the_login_without_a_session(site: Site, path: str) -> None:
    with urllib.request.urlopen(f"{site.url}/fairgate/{path}", timeout=10) as answer:
        assert answer.url == f"{site.url}/fairgate/login"


@pytest.mark.parametrize("path", ["events", "v1/ledger", "v1/queue"])
def test_data_is_refused_without_a_session_or_key(site: Site, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{site.url}/fairgate/{path}", timeout=10)
