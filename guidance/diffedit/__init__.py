"""DiffEdit: heat maps and masks."""
