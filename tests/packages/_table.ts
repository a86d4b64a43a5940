/**
 * The table of packages: what a kill and a `Timeout` do to a greenlet that waits in one. Each
 * row is tested, and `docs/packages.md` says the same.
 *
 * @module
 */

/**
 * When a greenlet stops that is interrupted. "not at all": the package takes the interrupt for a
 * failure of its own.
 */
export type Stops = "at once" | "after the wait" | "not at all";

/** What happens in one phase of a call. */
export interface Row {
  readonly stops: Stops;
  /** What then becomes of the connection, or of the work. */
  readonly then: string;
  /** The function of `_recipes.ts` with which it stops at once, and what then happens. */
  readonly recipe?: string;
  readonly recipeThen?: string;
  /** The name of the error with which the greenlet fails instead, if it does. */
  readonly error?: string;
  /** True if the package prints something of its own. */
  readonly prints?: true;
}

/** A package, by its major version. */
export interface PackageRows {
  readonly version: number | null;
  readonly phases: Readonly<Record<string, Row>>;
}

const NEXT = "the next wait throws";
const NO_OTHER = "no other attempt is made";
const CLOSED = "the connection is closed";

/** Stops at once, and the connection is closed. */
const atOnce: Row = { stops: "at once", then: CLOSED };

/** The phases of a client of HTTP that stops at once in all of them. */
const http = {
  "before the connection": atOnce,
  "waiting for the answer": atOnce,
  "within the body": atOnce,
};

/** `node-fetch` tells of an interrupt by an error that does not name it. */
const wrapped = {
  stops: "at once",
  then: CLOSED,
  error: "FetchError",
  recipe: "withSignal",
  recipeThen: CLOSED,
} as const;

const nodeFetch = {
  "before the connection": wrapped,
  "waiting for the answer": wrapped,
  "within the body": wrapped,
};

/** A phase that goes on until it gets its answer. */
function after<R extends string>(recipe: R, recipeThen: string) {
  return { stops: "after the wait", then: NEXT, recipe, recipeThen } as const;
}

/** The phases of a query. */
function query(recipe: string, cancelled: string) {
  return { "waiting for the answer": after(recipe, cancelled) } as const;
}

/** The phases of a client that connects when it is told to. */
function session(connect: string, recipe: string, cancelled: string) {
  return {
    "before the connection": after(connect, CLOSED),
    "waiting for the answer": after(recipe, cancelled),
    "within the body": after(recipe, cancelled),
  } as const;
}

/** The phases of a pool, which connects for a query. */
function pool(recipe: string) {
  return {
    "before the connection": after(recipe, POOLED),
    "waiting for the answer": after(recipe, CANCELLED),
    "within the body": after(recipe, CANCELLED),
  } as const;
}

const DROPPED = "the reply is dropped, and the connection stays usable";
const POOLED = "the connection is for the pool, once it is made";
const CANCELLED =
  "the server cancels the query, and the connection goes back to the pool";

export const table = {
  fetch: { version: null, phases: http },
  axios: { version: 1, phases: http },
  got: { version: 14, phases: http },
  ky: { version: 2, phases: http },
  "node-fetch": { version: 3, phases: nodeFetch },
  superagent: {
    version: 10,
    phases: {
      ...http,
      "within the body": {
        ...atOnce,
        then: `${CLOSED}; it prints a warning`,
        prints: true,
      },
    },
  },
  undici: {
    version: 7,
    phases: {
      ...http,
      "before the connection": {
        stops: "at once",
        then: "its `Agent` goes on to connect, for the next request",
      },
      "waiting in its pool": {
        stops: "after the wait",
        then: "it is not sent",
        recipe: "withSignal",
        recipeThen: "it is not sent",
      },
    },
  },
  ioredis: { version: 6, phases: session("until", "until", DROPPED) },
  redis: { version: 6, phases: session("until", "until", DROPPED) },
  pg: { version: 8, phases: pool("queryPg") },
  // Its sockets are opened by a timer, which no test can wait for.
  postgres: {
    version: 3,
    phases: {
      "waiting for the answer": after("queryPostgres", CANCELLED),
      "within the body": after("queryPostgres", CANCELLED),
    },
  },
  mysql2: { version: 3, phases: pool("queryMysql") },
  mongodb: {
    version: 7,
    phases: {
      // Its `connect` needs timers, which do not run in a test.
      "waiting for the answer": after("withSignal", CLOSED),
      "within the body": after("withSignal", CLOSED),
    },
  },
  amqplib: {
    version: 2,
    phases: {
      "before the connection": after(
        "orGiveBack",
        "the connection is closed once it is made",
      ),
      ...query("until", DROPPED),
      "waiting for a confirm": after("until", "the server keeps the message"),
      "waiting for a message": after(
        "until",
        "the consumer goes on, unless it is cancelled",
      ),
      "within the body": after(
        "orGiveBack",
        "the message goes back to its queue once it has come",
      ),
    },
  },
  nats: {
    version: 2,
    phases: {
      ...query("until", DROPPED),
      "waiting for a message": after("until", "the subscription ends"),
    },
  },
  mqtt: { version: 5, phases: query("until", DROPPED) },
  ws: {
    version: 8,
    phases: {
      "before the connection": after("until", CLOSED),
      ...query("untilMessage", CLOSED),
    },
  },
  "socket.io-client": { version: 4, phases: query("until", DROPPED) },
  bullmq: {
    version: 6,
    phases: {
      ...query("until", DROPPED),
      "waiting for the end of a job": {
        stops: "after the wait",
        then: NEXT,
        recipe: "until",
        recipeThen: "the job goes on",
      },
    },
  },
  nodemailer: { version: 10, phases: query("sendMail", CLOSED) },
  "@grpc/grpc-js": {
    version: 1,
    phases: {
      "waiting for the answer": {
        stops: "at once",
        then: "the server sees that the call is cancelled",
        error: "Error",
        recipe: "callGrpc",
        recipeThen: "the server sees that the call is cancelled",
      },
    },
  },
  "puppeteer-core": {
    version: 25,
    phases: {
      "starting its browser": after("withSignal", "the browser ends"),
      "waiting for a page": after("withSignal", "the page stays usable"),
      "waiting for an element": after("withSignal", "the page stays usable"),
      "waiting for code in a page": after("until", "the page is closed"),
    },
  },
  "p-queue": {
    version: 9,
    phases: {
      "waiting for its turn": {
        stops: "after the wait",
        then: NEXT,
        recipe: "withSignal",
        recipeThen: "its task never runs",
      },
      "in its task": {
        stops: "at once",
        then: "the queue goes on with the next task",
      },
    },
  },
  "p-retry": {
    version: 9,
    phases: {
      "in an attempt": {
        stops: "not at all",
        then: "the attempt fails at once, and p-retry makes another",
        recipe: "withSignal",
        recipeThen: NO_OTHER,
      },
      "between two attempts": {
        stops: "after the wait",
        then: "the next attempt is made, and its wait throws",
        recipe: "withSignal",
        recipeThen: NO_OTHER,
      },
    },
  },
  delay: {
    version: 7,
    phases: {
      "in the delay": {
        stops: "after the wait",
        then: NEXT,
        recipe: "withSignal",
        recipeThen: "its timer is cleared",
      },
    },
  },
  execa: {
    version: 9,
    phases: {
      "waiting for its child": {
        stops: "at once",
        then: "the child gets SIGTERM, and SIGKILL a second later",
      },
    },
  },
} as const satisfies Record<string, PackageRows>;

/** The name of a package of the table. */
export type PackageName = keyof typeof table;

/** The name of a phase of a package. */
export type PhaseName<P extends PackageName> =
  & keyof (typeof table)[P]["phases"]
  & string;
