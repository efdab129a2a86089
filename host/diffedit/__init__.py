"""DiffEdit in the host: heat maps by the host's sampler, and the start of the edit."""
