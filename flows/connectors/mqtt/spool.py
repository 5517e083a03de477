"""The spool: what MQTT handed us, on our own disk before the broker hears that we have it.

A broker forgets a message once it is acknowledged, so that recovery has to resume from here. Messages are numbered from
0; files hold runs of them and are called after the first one:

    00000000000000000000.spool    "tgspool1", then for each message: length, CRC-32 of the rest, the rest

`append` returns once its messages have reached the disk; only those are read. A power cut can leave a torn tail, which
no one was told of: it is cut off at the next start. Whole files are deleted once `release` says that no one needs them.
"""

import fcntl
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from schemas.errors import SourceLost, UsageError

log = logging.getLogger(__name__)

MAGIC = b"tgspool1"
SUFFIX = ".spool"
FILE_BYTES_MAX = 16 << 20
FILES_MIN = 32
"""A full spool has about so many files at least: as they are deleted whole, this is how finely it can shrink."""
READ_BYTES = 1 << 20
_FRAME = struct.Struct("<II")
_HEAD = struct.Struct("<qHHH")


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it came. packet: its MQTT packet identifier; trace: W3C traceparent, empty where it has none."""

    arrival_us: int
    packet: int
    topic: str
    payload: bytes
    trace: str = ""


@dataclass(slots=True)
class _File:
    first: int
    path: Path
    size: int = 0  # of what has reached the disk


@dataclass(slots=True)
class _Place:
    """Where the next read goes on: message `number` starts at `at` in the file that begins with `first`."""

    number: int = -1
    first: int = -1
    at: int = 0
    file: int | None = field(default=None)


class Spool:
    """The spool in `folder`, made if it is not there; one process at a time. One thread appends, another one reads.

    Errors: UsageError where another run has it, SourceLost where it is damaged or cannot be read.
    """

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._folder, self._bytes_max = folder, bytes_max
        self._file_bytes = min(FILE_BYTES_MAX, bytes_max // FILES_MIN)
        self._mutex = threading.Lock()
        self._place = _Place()
        self._end: int | None = None  # descriptor of the last file
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock: int | None = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            self._claim()
            self._files = self._found()
            self.next = self._open_end()
        except OSError as error:
            raise self._lost(error) from error

    @property
    def first(self) -> int:
        """Number of the oldest message that is kept."""
        return self._files[0].first

    @property
    def size(self) -> int:
        """Bytes on disk."""
        with self._mutex:
            return sum(file.size for file in self._files)

    def append(self, messages: Sequence[Message]) -> int:
        """Write messages and wait for the disk; gives how many there was room for, the first ones. Errors: OSError."""
        room = self._bytes_max - self.size - len(MAGIC)
        records: list[bytes] = []
        for message in messages:
            record = _encoded(message)
            room -= len(record)
            if room < 0:
                break
            records.append(record)
        if records:
            self._write(b"".join(records), len(records))
        return len(records)

    def read(self, number: int, most: int) -> list[Message]:
        """At most `most` messages from `number` on; none where there is none yet. Errors: SourceLost."""
        place = self._place
        try:
            if place.number != number:
                self._seek(number)
            messages: list[Message] = []
            while len(messages) < most and (run := self._read_run(most - len(messages))):
                messages += run
        except OSError as error:
            raise self._lost(error) from error
        return messages

    def release(self, number: int) -> None:
        """Delete the files that hold nothing from `number` on. Errors: SourceLost."""
        try:
            while len(self._files) > 1 and self._files[1].first <= number:
                self._files[0].path.unlink(missing_ok=True)
                self._sync_folder()  # one by one: after a power cut no older file stands before a gap
                with self._mutex:
                    del self._files[0]
        except OSError as error:
            raise self._lost(error) from error

    def close(self) -> None:
        """Let go of the files, and of the folder."""
        for descriptor in (self._place.file, self._end, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._place, self._end = _Place(), None
        self._lock = None

    def _claim(self) -> None:
        assert self._lock is not None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise UsageError(
                f"the MQTT spool {self._folder} is in use by another run: stop that one, or give this one another "
                "mqtt_spool"
            ) from None

    def _found(self) -> list[_File]:
        paths = sorted(self._folder.glob(f"*{SUFFIX}"))
        return [_File(int(path.stem), path, path.stat().st_size) for path in paths]

    def _open_end(self) -> int:
        """Open the last file, without its torn tail; gives the number after its last message."""
        if not self._files:
            self._begin(0)
            return 0
        end = self._files[-1]
        self._end = os.open(end.path, os.O_RDWR)
        if end.size < len(MAGIC):
            self._start(end)
            return end.first
        content = end.path.read_bytes()
        self._check_magic(end.path, content)
        count, good = 0, len(MAGIC)
        for _, good in _decoded(content, len(MAGIC)):  # noqa: B007
            count += 1
        if good < len(content):
            log.warning("%s: the last %d bytes never were whole and are cut off", end.path, len(content) - good)
            os.ftruncate(self._end, good)
            os.fsync(self._end)
        end.size = good
        return end.first + count

    def _begin(self, first: int) -> None:
        """A new last file."""
        file = _File(first, self._folder / f"{first:020}{SUFFIX}")
        end = os.open(file.path, os.O_RDWR | os.O_CREAT, 0o600)
        if self._end is not None:
            os.close(self._end)
        self._end = end
        self._start(file)
        self._sync_folder()
        with self._mutex:
            self._files.append(file)

    def _start(self, file: _File) -> None:
        assert self._end is not None
        os.ftruncate(self._end, 0)
        _write_all(self._end, MAGIC, 0)
        os.fsync(self._end)
        file.size = len(MAGIC)

    def _write(self, data: bytes, count: int) -> None:
        if self._files[-1].size >= self._file_bytes:
            self._begin(self.next)
        end, file = self._end, self._files[-1]
        assert end is not None, "the spool is closed"
        try:
            _write_all(end, data, file.size)
            os.fsync(end)
        except OSError:
            os.ftruncate(end, file.size)  # what half of it says was acknowledged to no one
            raise
        with self._mutex:
            file.size += len(data)
            self.next += count

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _seek(self, number: int) -> None:
        """Go to a message; those before it in its file are passed over."""
        if not self.first <= number <= self.next:
            raise SourceLost(
                f"the MQTT spool {self._folder} holds messages {self.first} to {self.next - 1}, and the recovery "
                f"store goes on at {number}: put back the spool that belongs to it, or start with a new --recovery"
            )
        with self._mutex:
            first = max(file.first for file in self._files if file.first <= number)
        self._turn_to(first)
        while self._place.number < number and self._read_run(number - self._place.number):
            pass

    def _turn_to(self, first: int) -> None:
        if self._place.file is not None:
            os.close(self._place.file)
        path = self._folder / f"{first:020}{SUFFIX}"
        self._place = _Place(first, first, len(MAGIC), os.open(path, os.O_RDONLY))
        self._check_magic(path, os.pread(self._place.file or 0, len(MAGIC), 0))

    def _read_run(self, most: int) -> list[Message]:
        """Some messages from where we are, at least one where there is one."""
        with self._mutex:
            after = next((file for file in self._files if file.first > self._place.first), None)
            sizes = {file.first: file.size for file in self._files}
            next_number = self.next
        if after is not None and self._place.number == after.first:  # read to its end, and maybe deleted since
            self._turn_to(after.first)
            return self._read_run(most)
        if self._place.number == next_number:
            return []
        size = sizes[self._place.first]
        place = self._place
        assert place.file is not None
        content = os.pread(place.file, min(READ_BYTES, size - place.at), place.at)
        if len(content) >= _FRAME.size and (whole := _FRAME.size + _FRAME.unpack_from(content)[0]) > len(content):
            content = os.pread(place.file, min(whole, size - place.at), place.at)
        messages, at = [], 0
        for message, at in _decoded(content, 0):  # noqa: B007
            messages.append(message)
            if len(messages) == most:
                break
        if not messages:
            raise SourceLost(
                f"message {place.number} of the MQTT spool {self._folder} is damaged: the disk may be failing; "
                "put the folder aside and start with a new --recovery"
            )
        self._place = _Place(place.number + len(messages), place.first, place.at + at, place.file)
        return messages

    def _check_magic(self, path: Path, content: bytes) -> None:
        if content[: len(MAGIC)] != MAGIC:
            raise SourceLost(f"{path} is no MQTT spool of this version: put the folder aside, or go back a version")

    def _lost(self, error: OSError) -> SourceLost:
        return SourceLost(f"the MQTT spool {self._folder} cannot be used ({error.strerror}): check that folder")


def _encoded(message: Message) -> bytes:
    topic, trace = message.topic.encode("utf-8"), message.trace.encode("utf-8")
    head = _HEAD.pack(message.arrival_us, message.packet, len(topic), len(trace))
    body = b"".join((head, topic, trace, message.payload))
    return _FRAME.pack(len(body), zlib.crc32(body)) + body


def _decoded(content: bytes, at: int) -> Iterator[tuple[Message, int]]:
    """Whole messages from `at` on, each with where the next one starts."""
    while at + _FRAME.size <= len(content):
        length, crc = _FRAME.unpack_from(content, at)
        start, end = at + _FRAME.size, at + _FRAME.size + length
        if length < _HEAD.size or end > len(content) or zlib.crc32(content[start:end]) != crc:
            return
        arrival_us, packet, topic_size, trace_size = _HEAD.unpack_from(content, start)
        topic = start + _HEAD.size
        trace, payload = topic + topic_size, topic + topic_size + trace_size
        words = content[topic:trace].decode(), content[payload:end], content[trace:payload].decode()
        yield Message(arrival_us, packet, *words), end
        at = end


def _write_all(descriptor: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written
