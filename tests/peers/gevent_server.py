"""The classic server: one greenlet for each connection, and a backlog of five.

    python3 gevent_server.py

Prints its port, and serves until it is killed.
"""

import gevent
from gevent import socket


def serve(sock):
    with sock:
        while data := sock.recv(1024):
            sock.send(data.upper())


listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(5)
print(listener.getsockname()[1], flush=True)
while True:
    sock, _ = listener.accept()
    gevent.spawn(serve, sock)
