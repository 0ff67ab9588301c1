"""Doubles for whoever tests against this package; nothing that serves imports them."""
