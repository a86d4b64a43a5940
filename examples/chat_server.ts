/**
 * A chat server: each line that a member sends goes to all members. Each connection has a
 * greenlet that reads its lines.
 *
 *     deno run -q -P=local-net examples/chat_server.ts
 *
 * Four people talk to each other, and one of them, Bob, reads nothing. When a line can't be sent
 * to Bob in time, the server closes Bob's connection, and the others go on.
 */

import {
  connect,
  Event,
  joinAll,
  listen,
  run,
  sleep,
  type Socket,
  type SocketListener,
  spawn,
  withTimeout,
} from "@gevent/gevent";

/** How long a line may take to be sent to one member, in milliseconds. */
const SEND_LIMIT = 200;
/** How long a line may be, in bytes. */
const LONGEST = 60_000;

/** The members of the chat, by name. */
const members = new Map<string, Socket>();

/** Accepts connections until it is killed. */
async function serve(listener: SocketListener): Promise<void> {
  for await (const socket of listener) spawn(welcome, socket);
}

/** Serves one member until it leaves. */
async function welcome(socket: Socket): Promise<void> {
  using _ = socket;
  await socket.sendAll("Your name?\n");
  const lines = socket.lines({ max: LONGEST });
  const { value: name } = await lines.next();
  if (name === undefined || members.has(name)) return;
  members.set(name, socket);
  say(`${name} has come`);
  try {
    for await (const line of lines) say(`${name}: ${line}`);
  } catch (error) {
    if (!isLost(error)) throw error;
  } finally {
    members.delete(name);
    say(`${name} has left`);
  }
}

/** Sends a line to all members, each in a new greenlet. */
function say(line: string): void {
  for (const [name, socket] of members) spawn(sendTo, name, socket, line);
}

async function sendTo(
  name: string,
  socket: Socket,
  line: string,
): Promise<void> {
  try {
    await withTimeout(SEND_LIMIT, () => socket.sendAll(`${line}\n`));
  } catch (error) {
    // A member that does not read is removed, which ends the loop over its lines.
    if (members.get(name) !== socket) return;
    console.log(`server: ${name} takes no lines (${(error as Error).name})`);
    members.delete(name);
    socket[Symbol.dispose]();
  }
}

function isLost(error: unknown): boolean {
  return error instanceof Deno.errors.BadResource ||
    error instanceof Deno.errors.Interrupted ||
    error instanceof Deno.errors.ConnectionReset ||
    error instanceof RangeError; // A line that is too long
}

/** Joins the chat, and returns the lines that follow. */
async function enter(port: number, name: string): Promise<Socket> {
  const socket = await connect({ hostname: "127.0.0.1", port });
  await socket.recvUntil("\n");
  await socket.sendAll(`${name}\n`);
  return socket;
}

/** Prints the lines that a member gets, until one of them says good bye. */
async function listenTo(socket: Socket, name: string, isIn: Event) {
  for await (const line of socket.lines()) {
    // The long lines are for Bob.
    if (line.length < 100) console.log(`${name} hears "${line}"`);
    if (line === `${name} has come`) isIn.set();
    if (line.endsWith("good bye")) return;
  }
}

await run(async () => {
  using listener = listen({ hostname: "127.0.0.1", port: 0 });
  spawn(serve, listener);
  const { port } = listener.addr;

  const listening = [];
  const sockets = new Map<string, Socket>();
  for (const name of ["rose", "jack", "mary"]) {
    const socket = await enter(port, name);
    sockets.set(name, socket);
    const isIn = new Event();
    listening.push(spawn(listenTo, socket, name, isIn));
    await isIn.wait();
  }
  await sockets.get("rose")!.sendAll("hello, all of you\n");

  using deaf = await enter(port, "bob");
  while (!members.has("bob")) await sleep(1);
  // Sends lines until they are more than the system keeps for Bob.
  const long = `${"x".repeat(LONGEST)}\n`;
  while (members.has("bob")) {
    await sockets.get("mary")!.sendAll(long);
    await sleep(1);
  }
  console.log(`main: bob's connection has ended: ${await isOver(deaf)}`);

  await sockets.get("jack")!.sendAll("good bye\n");
  await joinAll(listening);
  for (const socket of sockets.values()) socket.close();
});
console.log("the chat has ended");

/** Reads until the connection ends, then returns `true`. */
async function isOver(socket: Socket): Promise<boolean> {
  try {
    while ((await socket.recv()).length > 0);
  } catch (error) {
    if (!(error instanceof Deno.errors.ConnectionReset)) throw error;
  }
  return true;
}
