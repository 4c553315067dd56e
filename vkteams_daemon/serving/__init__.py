"""What the MCP server and the web page share: how they listen, their limits, their log and their audit."""
