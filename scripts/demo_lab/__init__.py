"""The stage of scripts/demo: two firewalls, a client and a server in namespaces."""
