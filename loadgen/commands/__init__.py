"""The sub-commands of ``loadgen``, one module each."""
