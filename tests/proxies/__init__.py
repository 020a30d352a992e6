"""Proxies that others wrote, in front of front ends that are restarted (`make proxies`)."""
