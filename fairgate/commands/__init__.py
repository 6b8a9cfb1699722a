"""The sub-commands of ``fairgate``, one module each."""
