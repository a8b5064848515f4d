"""The messages between a launcher and a driver process: JSON-RPC 2.0, one JSON object per line.

``messages.py`` has every method with the models of its parameters and result, ``handshake.py`` the proof of the token
and the choice of a version, ``peer.py`` one end of a connection, ``openrpc.py`` the OpenRPC document of all methods.
"""

from typing import Final

SPOKEN: Final = (1, 1)
"""First and last major version of the contract that this package speaks."""
