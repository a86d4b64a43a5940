"""The clients of all servers: many connections, each with one request on its way.

    python3 clients.py <echo or http> <requests of all> <clients> <port>

For every line on standard input it connects the clients, has each send one request after the
other until all were sent, and prints the milliseconds that these took. A client takes the next
request when it has its answer: connections are not spread evenly over processes that share a
port, and with as many requests for each connection some processes would be idle at the end.
`busy` is the share of that time in which this program ran: a client that is busy all the time
measures itself.

Python with nothing but a selector: one call tells of all answers that are there, and most of
what the rest costs is what the kernel does to receive and send. The standard library is all
it needs.
"""

import json
import selectors
import socket
import sys
import time

ECHO = b"client1 say hello 1, and so on.\n"
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
BODY = b"hello, world\n"


def connect(port):
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def length_of_answer(port):
    """How long an HTTP answer is: always the same, as all that changes is the date."""
    with connect(port) as sock:
        sock.send(REQUEST)
        data = b""
        while not data.endswith(b"\r\n\r\n" + BODY):
            more = sock.recv(4096)
            if not more:
                sys.exit(f"Wrong answer: {data}")
            data += more
    if not data.startswith(b"HTTP/1.1 200"):
        sys.exit(f"Wrong answer: {data}")
    return len(data)


class Requests:
    """The requests that were not sent yet, of all clients."""

    def __init__(self, count):
        self.left = count

    def take(self):
        """Takes one. Returns whether there was one left."""
        if self.left == 0:
            return False
        self.left -= 1
        return True


class Client:
    """One connection."""

    def __init__(self, port, requests, request, end, length):
        self.take = requests.take
        self.request = request
        self.end = end
        self.length = length
        self.received = 0
        self.sock = connect(port)
        self.recv = self.sock.recv
        self.send = self.sock.send

    def ready(self):
        """Reads; behind the last byte of an answer it sends the next request."""
        data = self.recv(4096)
        self.received += len(data)
        if self.received < self.length and data:
            return False
        if self.received != self.length or not data.endswith(self.end):
            raise ValueError(f"wrong answer: {data}")
        self.received = 0
        if not self.take():
            return True
        self.send(self.request)
        return False


def talk(clients):
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.sock, selectors.EVENT_READ, client.ready)
        for client in clients:
            client.take()
            client.send(client.request)
        left = len(clients)
        while left:
            for key, _ in selector.select():
                if key.data():
                    left -= 1


def main():
    protocol = sys.argv[1]
    requests, count, port = map(int, sys.argv[2:])
    if protocol == "echo":
        kind = ECHO, ECHO, len(ECHO)
    else:
        kind = REQUEST, BODY[-4:], length_of_answer(port)
    for _ in sys.stdin:
        all_requests = Requests(requests)
        clients = [Client(port, all_requests, *kind) for _ in range(count)]
        start, cpu = time.perf_counter(), time.process_time()
        try:
            talk(clients)
        except Exception as error:
            print(json.dumps({"error": str(error)}), flush=True)
            continue
        seconds = time.perf_counter() - start
        busy = (time.process_time() - cpu) / seconds
        print(json.dumps({"ms": seconds * 1000, "busy": busy}), flush=True)
        for client in clients:
            client.sock.close()


main()
