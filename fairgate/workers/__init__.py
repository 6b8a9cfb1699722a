"""Several gateway processes on one port, with one store and one set of engines.

``supervisor`` owns store, engines and configuration and keeps the workers running; ``worker`` is
what such a process does; ``orders`` is what the one tells the other; ``shared`` is the
configuration that they get; ``scrape`` puts their metrics together.
"""
