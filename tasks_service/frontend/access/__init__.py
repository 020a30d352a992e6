"""Who may call, and from where."""
