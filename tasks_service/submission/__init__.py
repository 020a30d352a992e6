"""Tasks that are submitted from Python, and not by an MCP client: in a shop's own code, or inside a tool."""
