"""The daily report: the mailings of one local day, as an e-mail.

`daily` decides which report is sent when, `figures` reads its data, `rendering` produces text, HTML
and table by `phrases` and `localization`, `mail` transmits it.
"""
