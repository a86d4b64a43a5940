"""The classic client: many threads, each with a connection of its own.

    python3 clients.py <port> <threads> <messages>

Each sends `Thread-n say hello k` and reads up to 1,024 bytes, again and again. Prints what
has become of them as one line of JSON.
"""

import json
import socket
import sys
import threading

port, threads, messages = map(int, sys.argv[1:])

# Long enough for a busy machine: a reply that never comes is an error, and no hang.
PATIENCE = 60

lock = threading.Lock()
replies = 0
errors = []


def client(name):
    global replies
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            for k in range(messages):
                message = f"{name} say hello {k}".encode()
                sock.send(message)
                reply = sock.recv(1024)
                if reply != message.upper():
                    raise ValueError(f"sent {message!r} and received {reply!r}")
                with lock:
                    replies += 1
    except Exception as error:
        with lock:
            errors.append(repr(error))


threading.stack_size(256 * 1024)
all_threads = [
    threading.Thread(target=client, args=(f"Thread-{n}",))
    for n in range(1, threads + 1)
]
for thread in all_threads:
    thread.start()
for thread in all_threads:
    thread.join()
print(json.dumps({"replies": replies, "errors": errors}))
