"""What a connection may cost before anybody knows who sent what: bytes, time, and how many there are."""
