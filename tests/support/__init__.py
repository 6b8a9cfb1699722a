"""What tests share: drivers and helpers, no tests."""
