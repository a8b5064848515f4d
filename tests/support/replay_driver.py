"""A driver that plays its part of a transcript: ``replay_driver.py TRANSCRIPT``.

It says what was asked otherwise than in the transcript, and ends with code 1 then. Nonces and proofs are real ones.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

from nodelaunch.driverhost.wire.handshake import SOCKET_VARIABLE, TOKEN_FD, is_proof, proof

NONCE = "nonce-of-driver"


def main() -> int:
    with os.fdopen(TOKEN_FD) as handed_over:
        token = handed_over.read()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ[SOCKET_VARIABLE])
    stream = connection.makefile("rw")
    asked: dict[str, object] = {}
    theirs = ""
    for line in Path(sys.argv[1]).read_text().splitlines():
        message = json.loads(line[2:])
        if line.startswith(">"):
            heard = stream.readline()
            if not heard:
                return 0
            asked = json.loads(heard)
            params = asked["params"]
            if asked["method"] == "handshake.hello":
                theirs = params["nonce"]
                message["params"].update(nonce=theirs, launcher=params["launcher"])
            if asked["method"] == "handshake.authenticate":
                assert is_proof(params["proof"], token, "launcher", (theirs, NONCE))
                message["params"]["proof"] = params["proof"]
            if asked != message:
                sys.stdout.write(f"asked {asked}\ninstead of {message}\n")
                return 1
        else:
            if asked["method"] == "handshake.hello":
                message["result"]["proof"] = proof(token, "driver", theirs, NONCE)
            stream.write(json.dumps(message) + "\n")
            stream.flush()
    return 0 if not stream.readline() else 1


if __name__ == "__main__":
    sys.exit(main())
