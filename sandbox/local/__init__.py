"""Sandboxes on this machine, made of Linux namespaces without any container engine."""
