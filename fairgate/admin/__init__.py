"""What operators see and change over HTTP.

``access`` tells who asks (``sessions``), ``shapes`` is what goes in and out, ``views``
looks at what is in force, ``operations`` changes it, ``handlers`` does so for ``calls``; ``routes``
names them, ``openapi`` describes them, ``app`` serves them, ``client`` asks from elsewhere.
"""
