"""What the servers in Python share: the protocol with bench/run.ts."""

import threading
import time

from _rounds import answer_lines


def tell_port(port):
    """Prints the port, and for every line on standard input how long the process has run.

    A thread of the system reads them, as gevent's loop knows nothing of standard input.
    """
    print(port, flush=True)

    def answer():
        return {"cpu": time.process_time() * 1000}

    threading.Thread(target=answer_lines, args=(answer,), daemon=True).start()
