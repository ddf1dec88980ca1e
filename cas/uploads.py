"""Puts in processes of their own: SSH and TLS would keep the interpreter lock from the producer.

Each process has a copy of the storage, and so a connection of its own. A thread here hands it a
name and the spool file's, and waits. The processes end with this one, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from pyarchiver.cas.storage import Checksums, Storage
from pyarchiver.formats.errors import ArchiverError, StorageError, UncertainError

_REPORT_EVERY = 0.2


class Uploads:
    """As many processes as the storage wants, started when they are needed."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        # Ctrl-C is for the main thread; children inherit what their thread does not hear.
        self._threads = ThreadPoolExecutor(
            storage.uploads, "upload", signal.pthread_sigmask, (signal.SIG_BLOCK, {signal.SIGINT})
        )
        self._own = threading.local()
        self._lock = threading.Lock()
        self._processes: list[BaseProcess] = []
        self._closed = False
        self._moved: dict[str, int] = {}

    def submit(self, name: str, spooled: Path) -> Future[Checksums]:
        """`Storage.put` in one of the processes."""
        return self._threads.submit(self._put, name, spooled)

    def moved(self, name: str) -> int:
        """Bytes that the put under way has sent of an object, more where it began anew."""
        return self._moved.get(name, 0)

    def close(self) -> None:
        """End the processes; a put that is under way is cut, and fails."""
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.terminate()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.join()
            process.close()

    def _put(self, name: str, spooled: Path) -> Checksums:
        try:
            connection = self._connection()
            connection.send((name, spooled))
            while isinstance(answer := self._receive(connection), int):
                self._moved[name] = self.moved(name) + answer
        except (EOFError, OSError):
            self._own.connection = None
            kind = StorageError if self._storage.atomic else UncertainError
            raise kind(f"object {name}: the process that sent it ended; run resume") from None
        finally:
            self._moved.pop(name, None)
        if isinstance(answer, ArchiverError):
            raise answer
        return answer

    def _receive(self, connection: Connection) -> int | Checksums | ArchiverError:
        """How much more was sent, or what came of it."""
        answer: int | Checksums | ArchiverError = connection.recv()
        return answer

    def _connection(self) -> Connection:
        """To this thread's process."""
        connection: Connection | None = getattr(self._own, "connection", None)
        if connection is None:
            context = multiprocessing.get_context("spawn")
            connection, its = context.Pipe()
            process = context.Process(target=_work, args=(its, self._storage), daemon=True)
            with self._lock:
                if self._closed:
                    raise EOFError
                process.start()
                self._processes.append(process)
            its.close()
            self._own.connection = connection
        return connection


def _work(connection: Connection, storage: Storage) -> None:
    """What an upload process does until its parent is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    storage.pace.tell = reporter(connection.send)
    while True:
        try:
            name, spooled = connection.recv()
        except EOFError:
            return
        try:
            connection.send(storage.put(name, spooled))
        except ArchiverError as error:
            connection.send(error)
        except Exception as error:
            kind = StorageError if storage.atomic else UncertainError
            connection.send(kind(f"object {name}: unexpected {type(error).__name__}: {error}"))


def reporter(
    send: Callable[[int], None], now: Callable[[], float] = time.monotonic
) -> Callable[[int], None]:
    """A function that takes counts of bytes and sends their sum now and then."""
    held, sent = 0, now()

    def tell(count: int) -> None:
        nonlocal held, sent
        held += count
        if now() - sent >= _REPORT_EVERY:
            send(held)
            held, sent = 0, now()

    return tell


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    # Not after the put that is under way: the next run makes it again, and sees none going on.
    os._exit(1)
