"""The operators' pages at ``/fairgate/``."""
