"""The daily report: what the mailings did on one local day, as an e-mail."""
