"""syncd keeps the connection tracking tables of a cluster of firewalls alike."""

__version__ = "0.1.0"
