"""Opt-outs: the phones that must never be sent anything."""
