"""Templates: HTML from what is known. Everything that is put into a page is escaped."""

from __future__ import annotations

from hashlib import sha256
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fairgate.inspection.shares import Role
from fairgate.inspection.words import factor, percent, seconds, short

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy: what this origin serves, and nothing else."""

ROLES = {
    Role.IDLE: ("idle", "wants nothing now"),
    Role.SERVED: ("served", "gets what it wants; nobody waits"),
    Role.PROTECTED: ("protected", "wants no more than its share and gets it"),
    Role.OVER: ("over share", "wants more than its share, and waits for it"),
    Role.FLOODS: ("floods", "wants a multiple of its share"),
    Role.HELD_BACK: ("held back", "has less than its share and waits for others"),
}

LIMITS = {
    "tenant.rpm": "tenant: requests per minute",
    "tenant.tpm": "tenant: tokens per minute",
    "tenant.concurrency": "tenant: requests at once",
    "tenant.daily_tokens": "tenant: tokens per day",
    "user.rpm": "user: requests per minute",
    "user.tpm": "user: tokens per minute",
    "user.concurrency": "user: requests at once",
    "user.daily_tokens": "user: tokens per day",
    "app.rpm": "app: requests per minute",
    "app.tpm": "app: tokens per minute",
    "interaction": "interaction refused before",
    "queue": "the line is full",
}

_STATIC = resources.files("fairgate") / "dashboard" / "static"


class Pages:
    """Renders templates of the package."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=PackageLoader("fairgate.dashboard"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals.update(roles=ROLES, limits=LIMITS, assets=_fingerprint(), bar=bar)
        self._environment.filters.update(
            percent=percent, short=short, seconds=seconds, factor=factor
        )

    def render(self, template: str, **known: object) -> str:
        """The text of ``template``."""
        return self._environment.get_template(template).render(**known)


def _fingerprint() -> str:
    """Changes with any static file, so that browsers may keep them."""
    digest = sha256()
    for file in sorted(_STATIC.iterdir(), key=lambda file: file.name):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def bar(value: float, mark: float | None = None, shade: str = "") -> Markup:
    """A bar of ``value``, 0 to 1, with a mark at ``mark``; as SVG, since the policy forbids styles
    in the page. The numbers stand beside it in words, so it is hidden from screen readers."""
    line = (
        Markup('<rect class="mark" x="{:.1f}%" width="2" y="0" height="100%"/>').format(
            min(99.0, 100 * mark)
        )
        if mark is not None
        else ""
    )
    return Markup(
        '<svg class="bar {}" aria-hidden="true" focusable="false">'
        '<rect class="fill" width="{:.1f}%" height="8" y="4" rx="2"/>{}</svg>'
    ).format(shade, 100 * min(1.0, max(0.0, value)), line)
