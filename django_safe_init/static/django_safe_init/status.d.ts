/** The five states that `/api/db/status` knows. */
export declare const State: Readonly<{
  /** Nothing has been done for this build, and nobody is at it. */
  NOT_INITIALIZED: "not_initialized";
  /** Somebody is about to begin. */
  INITIALIZING: "initializing";
  /** The work is being done, or its result is being checked. */
  MIGRATING: "migrating";
  /** Everything is done. It stays so: the watch ends by itself. */
  READY: "ready";
  /** The initialization failed; somebody has to look. It may be tried again. */
  ERROR: "error";
}>;
export type State = (typeof State)[keyof typeof State];

/** The `state` that the callback gets instead, while no usable answer comes. */
export declare const UNREACHABLE: "unreachable";

/** An answer of the server. */
export interface DatabaseStatus {
  readonly state: State;
  /** Per cent, 0 to 100. */
  readonly progress: number;
  /** What is going on, in a sentence for people. */
  readonly message: string;
}

/** No answer, or none that is a status. The watch goes on, more and more slowly. */
export interface Unreachable {
  readonly state: typeof UNREACHABLE;
  /** How often in a row. */
  readonly failures: number;
  /** The HTTP status of what answered, or null if nothing did. */
  readonly httpStatus: number | null;
  readonly error: unknown;
}

/** All times are in milliseconds; a quarter more or less is added by chance to each wait. */
export interface WatchOptions {
  /** Before the first question. Default: 0. */
  readonly delay?: number;
  /** Between two questions while things change. Default: 1000. */
  readonly interval?: number;
  /** It grows to this while nothing changes. Default: 5000. */
  readonly maxInterval?: number;
  /** Between two questions after an error; the most while nobody answers. Default: 15000. */
  readonly slowInterval?: number;
  /** How long one answer may take. Default: 10000. */
  readonly timeout?: number;
}

/**
 * Asks `url` again and again, and calls `callback` with each answer, until the state is ready.
 *
 * It asks nothing while the page is hidden. The next question waits for a promise that the
 * callback returns. Returns a function that stops the watch at once; no call follows it.
 */
export declare function watchStatus(
  url: string | URL,
  callback: (status: DatabaseStatus | Unreachable) => unknown,
  options?: WatchOptions,
): () => void;
