"""How long a thread of the API waits for a client."""

import socket
import threading
import time

import pytest

from api import crew


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> tuple[crew.PatientSocket, socket.socket]:
    monkeypatch.setattr(crew, "PATIENCE", 1)
    monkeypatch.setattr(crew, "UNTAKEN", 1)
    ours, theirs = socket.socketpair()
    patient = crew.PatientSocket(ours.family, ours.type, ours.proto, ours.detach())
    patient.limit()
    patient.patience = 1
    return patient, theirs


def test_who_says_nothing_has_gone(pair: tuple[crew.PatientSocket, socket.socket]) -> None:
    patient, theirs = pair
    with patient, theirs, pytest.raises(ConnectionResetError):
        patient.recv(10)


def test_who_takes_nothing_has_gone(pair: tuple[crew.PatientSocket, socket.socket]) -> None:
    patient, theirs = pair
    with patient, theirs, pytest.raises(BrokenPipeError):
        patient.sendall(b" " * 10_000_000)


@pytest.mark.parametrize(("piece", "endures"), [(1, False), (100, True)])
def test_a_trickle_ends_and_a_slow_upload_goes_on(
    pair: tuple[crew.PatientSocket, socket.socket], piece: int, endures: bool
) -> None:
    patient, theirs = pair
    over = threading.Event()

    def send() -> None:
        while not over.wait(0.05):
            theirs.sendall(b"x" * piece)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        until = time.monotonic() + 1.5
        lasts = True
        while lasts and time.monotonic() < until:
            try:
                patient.recv(1000)
            except ConnectionResetError:
                lasts = False
        assert lasts is endures
    finally:
        over.set()
        sender.join()
        patient.close()
        theirs.close()
