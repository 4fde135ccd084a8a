"""A process between a study and its MLflow server that disturbs their connections, as networks and servers do.

    python -m tests.faults.proxy <port of the server>

Prints its own port. Takes lines ``<disturbance> <seconds>`` from its input; then it passes all again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# reset: connections are torn down, new ones as soon as they ask; refuse: nobody listens; error: every request is
# answered with 500; hang: no byte gets through; cut: an answer ends after its first bytes.
DISTURBANCES = ("reset", "refuse", "error", "hang", "cut")
_PASS = "pass"
_ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops"
_CUT_BYTES = 40


class Proxy:
    """Forwards connections to a port of this machine, or disturbs them."""

    def __init__(self, to_port: int) -> None:
        self._to_port, self._mode, self._port = to_port, _PASS, 0
        self._open: set[asyncio.StreamWriter] = set()
        self._listener: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._passing.set()

    async def listen(self) -> int:
        """Take connections; returns the port, the same one every time."""
        self._listener = await asyncio.start_server(
            self._connect, "127.0.0.1", self._port, reuse_address=True
        )
        self._port = self._listener.sockets[0].getsockname()[1]
        return self._port

    async def disturb(self, mode: str, seconds: float) -> None:
        """Disturb all connections for a while."""
        self._mode = mode
        self._passing.clear()
        if mode == "refuse" and self._listener is not None:
            self._listener.close()
        if mode in ("reset", "refuse", "error"):
            for writer in list(self._open):
                writer.transport.abort()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._mode = _PASS
            if mode == "refuse":
                await self.listen()
            self._passing.set()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if self._mode == "reset":
                return
            if self._mode == "error":
                await reader.read(1 << 16)
                writer.write(_ERROR)
                await writer.drain()
                writer.close()
                return
            there, back = await asyncio.open_connection("127.0.0.1", self._to_port)
            self._open.add(back)
            try:
                await asyncio.gather(self._forward(reader, back), self._forward(there, writer, answer=True))
            finally:
                self._open.discard(back)
                back.transport.abort()
        except OSError:
            pass
        finally:
            self._open.discard(writer)
            if not writer.is_closing():
                _reset(writer)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bool = False
    ) -> None:
        while data := await reader.read(1 << 16):
            if self._mode == "hang":
                await self._passing.wait()
            if self._mode == "cut" and answer:
                writer.write(data[:_CUT_BYTES])
                await writer.drain()
                raise ConnectionResetError
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # one side is done: so is the other


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the other side sees a reset instead of an orderly end."""
    with contextlib.suppress(OSError):
        place = writer.get_extra_info("socket")
        place.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()


class ProxyProcess:
    """A running proxy, as its test holds it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._process = process
        self.port = int(process.stdout.readline())

    def disturb(self, disturbance: str, seconds: float) -> None:
        """Disturb for so long, and end what was before; returns at once."""
        assert self._process.stdin is not None
        assert disturbance in (*DISTURBANCES, _PASS)
        self._process.stdin.write(f"{disturbance} {seconds}\n")
        self._process.stdin.flush()


@contextmanager
def proxy_to(port: int) -> Iterator[ProxyProcess]:
    """A proxy process in front of a server on this machine."""
    process = subprocess.Popen(
        [sys.executable, "-S", str(Path(__file__)), str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield ProxyProcess(process)
    finally:
        process.kill()
        process.communicate()


async def _serve(to_port: int) -> None:
    proxy = Proxy(to_port)
    print(await proxy.listen(), flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    disturbance: asyncio.Task[None] | None = None
    while line := await lines.readline():
        mode, seconds = line.decode().split()
        if disturbance is not None:
            disturbance.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await disturbance
        disturbance = asyncio.create_task(proxy.disturb(mode, float(seconds)))


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
