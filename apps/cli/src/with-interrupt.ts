/** Runs with a signal that the first Ctrl-C aborts; the second one ends the process. */
export async function withInterrupt<T>(run: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const stop = new AbortController();
  const onInterrupt = () => stop.abort();
  process.once('SIGINT', onInterrupt);
  try {
    return await run(stop.signal);
  } finally {
    process.off('SIGINT', onInterrupt);
  }
}
