"""Revision 2025-11-25 and those before it: a handshake, sessions, streams."""
