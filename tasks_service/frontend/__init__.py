"""The MCP server: HTTP in front, the store behind, one module per concept between them."""
