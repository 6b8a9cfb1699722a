"""fairgate: multi-tenant fairness for LLM serving."""
