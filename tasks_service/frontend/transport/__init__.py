"""Bytes in and bytes out, for HTTP and stdio."""
