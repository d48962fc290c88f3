"""The web process: a REST API over the directory of clients, their mailings and messages."""

from api.app import create_app as create_app
