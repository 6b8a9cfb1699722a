"""What operators may do to a running gateway."""
