"""The admin API's routes: each with what goes in and out, for serving it and for describing it."""

from __future__ import annotations

from fairgate.admin import shapes
from fairgate.admin.calls import AdminRoute
from fairgate.admin.handlers import MOST_ENTRIES, MOST_TENANTS, Handlers
from fairgate.billing.records import UsageRecord


def routes(handlers: Handlers) -> tuple[AdminRoute, ...]:
    """All of them."""
    return (
        *_of_sessions(handlers),
        *_of_tenants(handlers),
        *_of_others(handlers),
        *_of_usage(handlers),
    )


def _of_sessions(h: Handlers) -> tuple[AdminRoute, ...]:
    s = shapes
    return (
        AdminRoute("POST", "/session", "Log a browser in; sets its cookie.", h.log_in,
                   None, s.Login, status=204, open=True),
        AdminRoute("GET", "/session", "Who asks.", h.session, s.Session),
        AdminRoute("DELETE", "/session", "Log out.", h.log_out, status=204),
    )  # fmt: skip


def _of_tenants(h: Handlers) -> tuple[AdminRoute, ...]:
    s, paging = shapes, {
        "after": "Begin behind this name.", "limit": f"At most so many, {MOST_TENANTS}.",
        "q": "Only names that hold this.",
    }  # fmt: skip
    one = "/tenants/{tenant}"
    return (
        AdminRoute("GET", "/tenants", "Tenants, by name.", h.tenants, s.Tenants,
                   query=paging),
        AdminRoute("POST", "/tenants", "Create a tenant.", h.create_tenant, s.Tenant,
                   s.NewTenant, status=201),
        AdminRoute("GET", one, "A tenant.", h.tenant, s.Tenant),
        AdminRoute("PATCH", one, "Change a tenant.", h.change_tenant, s.Tenant,
                   s.TenantTerms),
        AdminRoute("DELETE", one, "Delete a tenant and its keys.", h.delete_tenant,
                   status=204),
        AdminRoute("GET", f"{one}/keys", "A tenant's keys.", h.keys, s.Keys),
        AdminRoute("POST", f"{one}/keys", "Create a key; its text is shown this once.",
                   h.create_key, s.CreatedKey, s.NewKey, status=201),
        AdminRoute("DELETE", f"{one}/keys/{{key}}", "Revoke a key.", h.revoke_key,
                   status=204),
    )  # fmt: skip


def _of_others(h: Handlers) -> tuple[AdminRoute, ...]:
    s, app, lane, engine = shapes, "/apps/{app}", "/lanes/{lane}", "/engines/{lane}/{engine}"
    paging = {"before": "Begin before this version.", "limit": f"At most {MOST_ENTRIES}."}
    return (
        AdminRoute("GET", "/apps", "Apps.", h.apps, s.Apps),
        AdminRoute("GET", app, "An app.", h.app, s.App),
        AdminRoute("PUT", app, "Create an app, or say all of it.", h.put_app, s.App,
                   s.AppTerms),
        AdminRoute("PATCH", app, "Change an app.", h.change_app, s.App, s.AppTerms),
        AdminRoute("DELETE", app, "Delete an app that nobody names.", h.delete_app,
                   status=204),
        AdminRoute("GET", "/lanes", "Lanes.", h.lanes, s.Lanes),
        AdminRoute("GET", lane, "A lane.", h.lane, s.Lane),
        AdminRoute("PATCH", lane, "Change a lane.", h.change_lane, s.Lane, s.LanePatch),
        AdminRoute("GET", "/engines", "Engines.", h.engines, s.Engines),
        AdminRoute("POST", "/engines", "Add an engine that runs.", h.add_engine, s.Engine,
                   s.NewEngine, status=201),
        AdminRoute("GET", engine, "An engine.", h.engine, s.Engine),
        AdminRoute("PATCH", engine, "Drain an engine, or say its capacity.",
                   h.change_engine, s.Engine, s.EnginePatch),
        AdminRoute("DELETE", engine, "Remove an engine, once it runs nothing.",
                   h.remove_engine, status=204),
        AdminRoute("GET", "/changes", "The changes in force.", h.changes, s.State),
        AdminRoute("GET", "/audit", "Who changed what, the newest first.", h.audit, s.Audit,
                   None, paging),
    )  # fmt: skip


def _of_usage(h: Handlers) -> tuple[AdminRoute, ...]:
    span = {
        "since": "Charged then or later: a day or time of ISO 8601, UTC unless it says else.",
        "until": "Charged before then.",
        "tenant": "Only this one's.",
    }
    return (
        AdminRoute("GET", "/usage", "Usage records, one JSON object a line.", h.usage,
                   UsageRecord, query=span, media_type="application/jsonl"),
        AdminRoute("GET", "/usage/sums", "Usage by tenant.", h.usage_sums, shapes.UsageSums,
                   query=span),
    )  # fmt: skip
