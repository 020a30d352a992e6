"""The deployment that ships: `app.py` is its service, `tools/` what it offers, `demo/` shows it at work."""
