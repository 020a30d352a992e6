"""`make demo`: real work through a real MCP client, with a crash on the way."""
