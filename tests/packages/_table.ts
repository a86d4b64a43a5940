/**
 * The table of packages: what a kill and a `Timeout` do to a greenlet that waits in one. Each
 * row is tested, and `docs/packages.md` says the same.
 *
 * @module
 */

/** When a greenlet stops that is interrupted. */
export type Stops = "at once" | "after the wait";

/** What happens in one phase of a call. */
export interface Row {
  readonly stops: Stops;
  /** What then becomes of the connection, or of the work. */
  readonly then: string;
  /** The function of `_recipes.ts` with which it stops at once, and what then happens. */
  readonly recipe?: string;
  readonly recipeThen?: string;
}

/** A package, by its major version. */
export interface PackageRows {
  readonly version: number | null;
  readonly phases: Readonly<Record<string, Row>>;
}

const CLOSED = "the connection is closed";

/** Stops at once, and the connection is closed. */
const atOnce: Row = { stops: "at once", then: CLOSED };

/** The phases of a client of HTTP that stops at once in all of them. */
const http = {
  "before the connection": atOnce,
  "waiting for the answer": atOnce,
  "within the body": atOnce,
};

export const table = {
  fetch: { version: null, phases: http },
  axios: { version: 1, phases: http },
  got: { version: 14, phases: http },
  ky: { version: 2, phases: http },
  "node-fetch": { version: 3, phases: http },
  superagent: { version: 10, phases: http },
  undici: { version: 7, phases: http },
  ws: {
    version: 8,
    phases: {
      "before the connection": {
        stops: "after the wait",
        then: "",
        recipe: "connectSocket",
      },
      "waiting for a message": {
        stops: "after the wait",
        then: "",
        recipe: "nextMessage",
      },
    },
  },
  "socket.io-client": {
    version: 4,
    phases: {
      "before the connection": {
        stops: "after the wait",
        then: "",
        recipe: "socketIo",
      },
      "waiting for the answer": {
        stops: "after the wait",
        then: "",
        recipe: "socketIo",
      },
    },
  },
  "@grpc/grpc-js": {
    version: 1,
    phases: {
      "before the connection": {
        stops: "after the wait",
        then: "",
        recipe: "grpc",
      },
      "waiting for the answer": {
        stops: "after the wait",
        then: "",
        recipe: "grpc",
      },
      "within the body": {
        stops: "after the wait",
        then: "",
        recipe: "grpc",
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
