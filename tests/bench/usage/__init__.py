"""Whether usage records sum up to the ledger: with aborts, and a gateway that is killed."""
