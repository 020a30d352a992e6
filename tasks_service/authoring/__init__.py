"""Tools, resources, prompts and completions as authors declare them, and their schemas."""
