"""The protocol on the wire: one module for each revision; nothing else knows their field names."""
