"""The digits example."""
