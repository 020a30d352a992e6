"""An MCP client for this service."""
