"""Clients that end their connections in every way there is.

    python3 rude_clients.py <port>

One is connected all the time, and talks to the server after each of the others. Prints
what the others and that one got as one line of JSON.
"""

import json
import socket
import struct
import sys

port = int(sys.argv[1])

PATIENCE = 60


def connect():
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def read_all(sock):
    received = b""
    while data := sock.recv(1024):
        received += data
    return received.decode()


def reset(sock):
    """Closes a socket so that the other side gets a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def leaves_at_once():
    connect().close()


def leaves_with_a_reply_unread():
    with connect() as sock:
        sock.sendall(b"hello")


def leaves_in_the_middle_of_a_long_reply():
    with connect() as sock:
        sock.sendall(b"x" * 300_000)
        return sock.recv(1).decode()


def half_closes():
    with connect() as sock:
        sock.sendall(b"half")
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


def half_closes_at_once():
    with connect() as sock:
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


def resets_at_once():
    reset(connect())


def resets_after_a_message():
    sock = connect()
    sock.sendall(b"hello")
    reset(sock)


def resets_after_a_reply():
    sock = connect()
    sock.sendall(b"hello")
    reply = sock.recv(1024).decode()
    reset(sock)
    return reply


def cuts_a_character():
    """Sends the two bytes of one character apart, and reads between them."""
    with connect() as sock:
        sock.sendall("aé".encode()[:2])
        first = sock.recv(1024).decode()
        sock.sendall("aé".encode()[2:])
        return first + sock.recv(1024).decode()


with connect() as steady:
    got = {}
    for client in (
        leaves_at_once,
        leaves_with_a_reply_unread,
        leaves_in_the_middle_of_a_long_reply,
        half_closes,
        half_closes_at_once,
        resets_at_once,
        resets_after_a_message,
        resets_after_a_reply,
        cuts_a_character,
    ):
        reply = client()
        steady.sendall(b"still there")
        got[client.__name__] = [reply, steady.recv(1024).decode()]
    print(json.dumps(got))
