"""What a launcher and a driver in a process of its own say to each other: JSON-RPC 2.0, one JSON object a line.

``messages.py`` has every method with the models of its parameters and result, ``handshake.py`` the proof of the token
and the choice of a version, ``peer.py`` one end of a connection, ``openrpc.py`` all of it as a document.
What does *not* belong here: processes (driverhost/process), and any driver.
"""

from typing import Final

SPOKEN: Final = (1, 1)
"""First and last major version of the contract that this package speaks."""
