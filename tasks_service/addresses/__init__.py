"""URLs of Redis and of brokers: parsing them, and the encryption of their connections."""
