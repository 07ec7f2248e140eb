"""The gateway: relays bytes between a client and an upstream and tells a recorder what passed."""

__version__ = "0.1.0"
