"""The repository's tools: set-up, a headless host, workflow conversion, the demo, the tables. Never shipped."""
