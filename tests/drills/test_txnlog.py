"""History read from the logs of an ensemble: every committed change that had an effect, once."""

from __future__ import annotations

import struct
from pathlib import Path

from support import txnlog

CREATE, MULTI, ERROR = 1, 14, -1
EPOCH = 1 << 32


def text(data: bytes) -> bytes:
    return struct.pack("!i", len(data)) + data


def create(path: str) -> bytes:
    return text(path.encode()) + text(b"{}")


def logged(zxid: int, kind: int, body: bytes) -> bytes:
    transaction = struct.pack("!qiqqi", 7, 0, zxid, 0, kind) + body
    return struct.pack("!qi", 0, len(transaction)) + transaction + b"B"


def multi(*parts: tuple[int, bytes]) -> bytes:
    return struct.pack("!i", len(parts)) + b"".join(struct.pack("!i", kind) + text(body) for kind, body in parts)


def creating(zxid: int) -> bytes:
    return logged(zxid, CREATE, create(f"/c/{zxid:x}"))


def server(folder: Path, *transactions: bytes, snapshots: tuple[int, ...] = ()) -> Path:
    place = folder / "version-2"
    place.mkdir(parents=True)
    (place / "log.1").write_bytes(bytes(16) + b"".join(transactions) + bytes(64))
    for zxid in snapshots:
        (place / f"snapshot.{zxid:x}").touch()
    return folder


def zxids(*servers: list[Path]) -> list[int]:
    return [write.zxid for write in txnlog.merged(servers, "/c")]


def test_failed_transaction_has_no_writes(tmp_path: Path) -> None:
    done = logged(1, MULTI, multi((CREATE, create("/c/a")), (CREATE, create("/c/b"))))
    failed = logged(2, MULTI, multi((CREATE, create("/c/x")), (ERROR, struct.pack("!i", -110))))
    found = txnlog.history(server(tmp_path / "0", done, failed), "/c")
    assert [write.path for write in found] == ["/a", "/b"]


def test_gaps_of_one_server_are_filled_from_the_others(tmp_path: Path) -> None:
    one = server(tmp_path / "0", creating(1), creating(3))
    two = server(tmp_path / "1", creating(1), creating(2), creating(3))
    assert zxids([one], [two]) == [1, 2, 3]


def test_tail_that_one_server_alone_has_was_not_committed(tmp_path: Path) -> None:
    one = server(tmp_path / "0", creating(1), creating(2), creating(EPOCH + 1))
    two = server(tmp_path / "1", creating(1), creating(EPOCH + 1))
    assert zxids([one], [two]) == [1, EPOCH + 1]


def test_tail_that_a_leader_began_with_was_committed_by_that(tmp_path: Path) -> None:
    one = server(tmp_path / "0", creating(1), creating(2), creating(EPOCH + 1), snapshots=(2,))
    two = server(tmp_path / "1", creating(1), creating(EPOCH + 1))
    assert zxids([one], [two]) == [1, 2, EPOCH + 1]


def test_what_a_server_lost_when_it_was_restored_counts(tmp_path: Path) -> None:
    one = server(tmp_path / "0", creating(1), creating(2))
    two = server(tmp_path / "1", creating(1))
    lost = server(tmp_path / "lost", creating(1), creating(2))
    assert zxids([one], [two]) == [1]
    assert zxids([one], [two, lost]) == [1, 2]
