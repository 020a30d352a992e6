"""What a URL of Redis or of a broker means, and how its connections are encrypted."""
