const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Runs with a signal that the first Ctrl-C, or `docker stop`, aborts; the second one ends the process. */
export async function withInterrupt<T>(run: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const stop = new AbortController();
  const unlisten = () => {
    for (const name of SIGNALS) process.off(name, onInterrupt);
  };
  function onInterrupt(): void {
    unlisten();
    stop.abort();
  }
  for (const name of SIGNALS) process.on(name, onInterrupt);
  try {
    return await run(stop.signal);
  } finally {
    unlisten();
  }
}
