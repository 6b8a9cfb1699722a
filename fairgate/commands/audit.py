"""``fairgate audit``: who changed what."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fairgate.commands.remote import URL, AdminKey, AsJson, Url, client_of, show, telling_errors


@telling_errors
def audit(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
    url: Url = URL,
    key: AdminKey = "",
    as_json: AsJson = False,
) -> None:
    """Print the last changes, the newest first."""
    found = client_of(url, key).call("GET", "audit", query={"limit": limit})["entries"]
    rows = [
        {**entry, "by": entry["by"]["name"] or entry["by"]["key"], "changed": _changed(entry)}
        for entry in found
    ]
    show(found, as_json, ("at", "by", "action", "object", "changed"), rows)


def _changed(entry: dict[str, Any]) -> str:
    before, after = entry["before"], entry["after"]
    if before is None and isinstance(after, dict) and after.get("url"):
        return f"at {after['url']}"
    if not isinstance(before, dict) or not isinstance(after, dict):
        return ""
    return " ".join(
        f"{name}: {before.get(name)} → {value}"
        for name, value in after.items()
        if before.get(name) != value and name != "source"
    )
