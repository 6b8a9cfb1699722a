"""Changes of the configuration while gateways run, kept in the store and shared by a site.

``overlay`` is what was changed, ``merge`` puts it over the file's configuration, ``store`` keeps
it, ``live`` follows it and makes changes.
"""
