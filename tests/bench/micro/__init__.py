"""The parts of a request's way one by one, with pytest-benchmark; ``make bench-micro``."""
