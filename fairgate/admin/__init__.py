"""What operators see and change over HTTP.

``access`` tells who asks (``sessions``, ``guesses``), ``shapes`` is what goes in and out, ``views``
looks at what is in force, ``operations`` changes it, ``routes`` is the API, ``openapi`` describes
it, ``app`` serves it.
"""
