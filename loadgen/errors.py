"""Every exception that loadgen raises on purpose, as one tree.

LoadgenError           ``str(error)`` is the whole message for the user
├── TraceError         a trace cannot be read; names file, line and field
├── SpecError          an option or the tenants' file is wrong; names the value
└── TargetError        the target does not answer at all
"""

from __future__ import annotations


class LoadgenError(Exception):
    """Base of everything that loadgen raises on purpose."""


class TraceError(LoadgenError):
    """A trace cannot be read."""


class SpecError(LoadgenError):
    """An option, the tenants' SPEC, or a combination of them makes no sense."""


class TargetError(LoadgenError):
    """The target cannot be reached."""
