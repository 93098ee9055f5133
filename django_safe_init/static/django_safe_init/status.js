// Watches the status of a database that django-safe-init initializes. See status.d.ts.

export const State = Object.freeze({
  NOT_INITIALIZED: "not_initialized",
  INITIALIZING: "initializing",
  MIGRATING: "migrating",
  READY: "ready",
  ERROR: "error",
});

export const UNREACHABLE = "unreachable";

const STATES = Object.values(State);
const DEFAULTS = {
  delay: 0,
  interval: 1000,
  maxInterval: 5000,
  slowInterval: 15000,
  timeout: 10000,
};

export function watchStatus(url, callback, options = {}) {
  const settings = { ...DEFAULTS, ...options };
  const stopped = new AbortController();
  watch(url, callback, settings, stopped.signal);
  return () => stopped.abort();
}

async function watch(url, callback, settings, signal) {
  let before;
  let wait = settings.delay;
  do {
    await rest(wait, signal);
    if (signal.aborted) return;
    const now = await look(url, settings.timeout, signal, before);
    if (signal.aborted) return;
    await tell(callback, now);
    wait = nextWait(wait, now, before, settings);
    before = now;
  } while (before.state !== State.READY);
}

// A callback that fails is reported as any uncaught error, and does not end the watch.
async function tell(callback, status) {
  try {
    await callback(status);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

async function look(url, timeout, signal, before) {
  const request = new AbortController();
  const abort = () => request.abort();
  const timer = setTimeout(abort, timeout);
  signal.addEventListener("abort", abort);
  let httpStatus = null;
  try {
    // Only what needs no preflight across origins.
    const headers = { Accept: "application/json" };
    const asked = { headers, cache: "no-store", signal: request.signal };
    const response = await fetch(url, asked);
    httpStatus = response.status;
    const { state, progress, message } = await response.json();
    if (response.ok && STATES.includes(state)) return { state, progress, message };
    throw new TypeError(`${url} answers ${httpStatus}, and not with a status`);
  } catch (error) {
    const failures = (before?.failures ?? 0) + 1;
    return { state: UNREACHABLE, failures, httpStatus, error };
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
  }
}

function nextWait(wait, now, before, { interval, maxInterval, slowInterval }) {
  if (now.state === UNREACHABLE) {
    return Math.min(interval * 2 ** now.failures, slowInterval);
  }
  if (now.state === State.ERROR) return slowInterval;
  const same = now.state === before?.state && now.progress === before.progress;
  return same ? Math.min(Math.max(wait, interval) * 1.5, maxInterval) : interval;
}

// A quarter less or more, so that those who wait do not all ask at once. Never ends
// while the page is hidden; ends at once when it is shown again.
function rest(wait, signal) {
  const page = globalThis.document;
  return new Promise((resolve) => {
    const endIfShown = () => page?.hidden || end();
    const timer = setTimeout(endIfShown, wait * (0.75 + Math.random() / 2));
    const end = () => {
      clearTimeout(timer);
      page?.removeEventListener("visibilitychange", endIfShown);
      signal.removeEventListener("abort", end);
      resolve();
    };
    page?.addEventListener("visibilitychange", endIfShown);
    signal.addEventListener("abort", end);
  });
}
