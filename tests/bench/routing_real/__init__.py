"""What routing saves on two real engines, with labels made on them: `make routing-real`."""
