"""Encoding over participants: tables, contrasts between speech models, maps."""
