"""The fleet: launches mailings, sends their messages, sweeps up after whatever died."""
