"""What operators see of a pool: who gets what, who waits and why; as typed structs and JSON."""
