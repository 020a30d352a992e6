"""A service on one machine: a private redis-server, child processes, the Procfile, ports."""
