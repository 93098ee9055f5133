// Never run: what the types must allow, and what they must not.
import {
  State,
  UNREACHABLE,
  watchStatus,
  type DatabaseStatus,
  type Unreachable,
  type WatchOptions,
} from "../../../django_safe_init/static/django_safe_init/status.js";

const options: WatchOptions = { delay: 0, interval: 500, maxInterval: 2000 };

const stop: () => void = watchStatus(
  new URL("https://shop.example/api/db/status"),
  (status) => {
    if (status.state === UNREACHABLE) {
      const lost: Unreachable = status;
      const answered: number | null = lost.httpStatus;
      return answered === null ? lost.failures : answered;
    }
    const known: DatabaseStatus = status;
    switch (known.state) {
      case State.NOT_INITIALIZED:
      case State.INITIALIZING:
      case State.MIGRATING:
        return known.progress / 100;
      case State.READY:
      case State.ERROR:
        return known.message.length;
      default: {
        const nothing: never = known.state;
        return nothing;
      }
    }
  },
  options,
);
stop();

watchStatus("/api/db/status", async () => {});

// @ts-expect-error: no such state
const wrong: State = "validating";
// @ts-expect-error: the states are constants
State.READY = wrong;
// @ts-expect-error: no such option
watchStatus("/api/db/status", () => {}, { seconds: 1 });
// @ts-expect-error: only a status of the server has progress
watchStatus("/api/db/status", (status) => status.progress);
