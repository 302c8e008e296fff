"""Inbound providers: one file each, one list here."""
