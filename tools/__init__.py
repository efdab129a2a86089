"""Tools of the house: set-up, a headless host, workflow conversion, the demo, the README's tables. Never shipped."""
