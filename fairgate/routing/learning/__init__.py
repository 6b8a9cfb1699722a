"""What happens before serving: records of how models answered become an artefact for the router."""
