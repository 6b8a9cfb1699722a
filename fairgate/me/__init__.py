"""``GET /fairgate/v1/me``: what a tenant may know of itself, as JSON and as a page."""
