import cliProgress, { type GenericFormatter } from 'cli-progress';

export type Bar = {
  start(total: number, values?: object): void;
  update(value: number, values?: object): void;
  increment(by: number, values?: object): void;
  stop(): void;
};

/** What is said of each command's progress, in 80 columns. */
const TEXTS = {
  import: '[{bar}] {percentage} %, {imported} imported, {rejected} rejected{waiting}{left}',
  export: '{value} customers',
  replay: '[{bar}] {percentage} %, {value} of {total}{left}',
  burst: '[{bar}] {percentage} %, {perSecond}/s, p50/p99 {latency} ms, {statuses}',
};

const LINE_INTERVAL_MS = 5_000;

/** A bar on stderr. Where that is no terminal, a line every few seconds, and none of what is done sooner. */
export function createBar(
  command: keyof typeof TEXTS,
  { stream = process.stderr as NodeJS.WritableStream & { isTTY?: boolean }, lineIntervalMs = LINE_INTERVAL_MS } = {},
): Bar {
  const isTerminal = stream.isTTY === true;
  const bar = new cliProgress.SingleBar({
    format: toFormat(TEXTS[command]),
    stream,
    barsize: 12,
    etaBuffer: 50,
    noTTYOutput: true,
    notTTYSchedule: lineIntervalMs,
    clearOnComplete: !isTerminal, // else it ends with an empty line
  });
  let latest: [value: number, values?: object] = [0];
  let timer: NodeJS.Timeout | undefined;
  function update(value: number, values?: object): void {
    latest = [value, values];
    bar.update(value, values);
  }
  return {
    start(total, values) {
      latest = [0, values];
      const start = () => bar.start(total, ...latest);
      if (isTerminal) start();
      else timer = setTimeout(start, lineIntervalMs);
    },
    update,
    increment: (by, values) => update(latest[0] + by, values),
    stop() {
      clearTimeout(timer);
      bar.stop();
    },
  };
}

/** With the time that is left, as long as it can be told: nobody knows it of what waits. */
function toFormat(text: string): GenericFormatter {
  return (options, params, payload) => {
    const isTold = !payload.waiting && params.progress < 1 && Number.isFinite(params.eta) && params.eta > 0;
    const format = text.replace('{left}', isTold ? ', {eta_formatted} left' : '');
    return cliProgress.Format.Formatter({ ...options, format }, params, payload);
  };
}
