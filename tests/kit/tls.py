"""Certificates made on the spot, and a proxy that ends TLS in front of a server that speaks none."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """A CA of a test's own.

    Args:
        directory: Where its certificate and those that it signs are written.
        name: What it is called; also the name of its file.
    """

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory, self._key = directory, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            _builder(self._name, self._name, self._key, now - DAY, now + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str = "server", *, host: str = "127.0.0.1", days: float = 1) -> Path:
        """A certificate and its key, in one file.

        Args:
            name: Of the file.
            host: The address or the name that it is for.
            days: From now until it ends; negative: it has.
        """
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        try:
            alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            alternative = x509.DNSName(host)
        certificate = (
            _builder(subject, self._name, key, now - 2 * DAY, now + days * DAY)
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file = self._directory / f"{name}.pem"
        file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
        return file


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    begins: datetime.datetime,
    ends: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )


HELLO = b"\x16"
"""What a TLS connection begins with, and none of Redis's protocol does."""


class TlsProxy:
    """Takes TLS connections on a loopback port, and passes on what is in them.

    Args:
        target_port: Where a server listens that speaks no TLS.
        certificate: A file with a certificate and its key.
        clients: A CA whose certificate every client must show; None: no client shows one.
        plain_too: Whether connections without TLS are passed on as well: Redis's own servers, which know each
            other by the addresses that clients are told, have nothing else here.

    Attributes:
        encrypted: How many connections came with TLS.
    """

    def __init__(
        self, target_port: int, certificate: Path, clients: Path | None = None, *, plain_too: bool = False
    ) -> None:
        self._target, self._loop = target_port, asyncio.new_event_loop()
        self.encrypted = 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients)
        self._context, self._plain_too = context, plain_too
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._greetings = {self._loop.create_task(self._accept())}
        # Whoever is refused by a client, or refuses it, is what tests are about, and nothing to log.
        self._loop.set_exception_handler(lambda loop, what: None)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more connections, and cut those that there are."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        self._listener.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            greeting = self._loop.create_task(self._greet(client))
            self._greetings.add(greeting)
            greeting.add_done_callback(self._greetings.discard)

    async def _greet(self, client: socket.socket) -> None:
        readable = asyncio.Event()
        self._loop.add_reader(client, readable.set)
        await readable.wait()
        self._loop.remove_reader(client)
        encrypted = not self._plain_too or client.recv(1, socket.MSG_PEEK) == HELLO
        self.encrypted += encrypted
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader, self._serve)
        context = self._context if encrypted else None
        await self._loop.connect_accepted_socket(lambda: protocol, client, ssl=context)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            await asyncio.gather(_pass_on(reader, inner_writer), _pass_on(inner_reader, writer))
        finally:
            writer.transport.abort()
            inner_writer.transport.abort()


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while packet := await source.read(1 << 16):
            sink.write(packet)
            await sink.drain()
    sink.close()
