"""What MESS+ promises, on recorded outcomes: ``python -m tests.bench.mess_plus DATA``."""
