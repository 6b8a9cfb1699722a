"""Whether memory stays flat over very many requests and aborted streams."""
