"""What grows with engines and tenants even while nobody sends anything: heartbeats, accounts."""
