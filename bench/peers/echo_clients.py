"""The clients of all echo servers: many connections, each with one message on its way.

    python3 echo_clients.py <port> <clients> <messages of each>

For every line on standard input it connects the clients, has each send its messages one by
one, and prints the milliseconds that the messages took. Behind them it prints the share of
that time in which this program was busy: a client that is busy all the time measures itself.

Python with nothing but a selector: most of what that costs for a message is what the kernel does
to send and receive it. The standard library is all it needs.
"""

import selectors
import socket
import sys
import time

MESSAGE = b"client1 say hello 1, and so on.\n"


class Client:
    def __init__(self, port, messages):
        self.left = messages
        self.received = 0
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.recv = self.sock.recv
        self.send = self.sock.send

    def ready(self):
        """Reads; sends the next message behind the last byte of an echo."""
        data = self.recv(4096)
        if not MESSAGE.startswith(data, self.received) or not data:
            sys.exit(f"Wrong echo: {data}")
        self.received += len(data)
        if self.received < len(MESSAGE):
            return False
        self.received = 0
        self.left -= 1
        if self.left == 0:
            return True
        self.send(MESSAGE)
        return False


def talk(clients):
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.sock, selectors.EVENT_READ, client.ready)
        for client in clients:
            client.send(MESSAGE)
        left = len(clients)
        while left:
            for key, _ in selector.select():
                if key.data():
                    left -= 1


def main():
    port, count, messages = map(int, sys.argv[1:])
    for _ in sys.stdin:
        clients = [Client(port, messages) for _ in range(count)]
        start, busy = time.perf_counter(), time.process_time()
        talk(clients)
        time_taken = time.perf_counter() - start
        print(time_taken * 1000, (time.process_time() - busy) / time_taken, flush=True)
        for client in clients:
            client.sock.close()


main()
