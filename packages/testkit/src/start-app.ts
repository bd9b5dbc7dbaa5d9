import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { findFreePort } from '@opm/embedded';
import { type ProcessOptions, startProcess, type TestProcess } from './start-process.js';
import { PATIENCE_MS } from './wait-for.js';

export interface TestApp extends TestProcess {
  /** The app's URL, such as http://127.0.0.1:12345; empty for the worker, which has none. */
  url: string;
  /**
   * Reads a metric by its name and labels as rendered, without the label `process`. A counter that does not exist is 0.
   * @throws Error for a gauge that is left out, because its value could not be read in time
   */
  readMetric(name: string): Promise<number>;
  /** Reads several metrics at one moment. */
  readMetrics(names: string[]): Promise<number[]>;
}

type StartOptions = Pick<ProcessOptions, 'timeoutMs' | 'detached'>;

const READY = {
  ingress: /"msg":"accepting entries"/,
  worker: /"msg":"taking jobs"/,
  console: /"msg":"console is up"/,
};

export type AppName = keyof typeof READY;

/** Origins of the ingresses that were started here. */
export const ingressOrigins = new Set<string>();

/** Runs a built app as a process, on free loopback ports by default. */
export async function startApp(name: AppName, env: NodeJS.ProcessEnv, options?: StartOptions): Promise<TestApp> {
  const internalPort = env.INTERNAL_PORT ?? (await findFreePort());
  const app = await startProcess({
    file: fileURLToPath(new URL(`../../../apps/${name}/dist/main.js`, import.meta.url)),
    env: {
      PORT: '0',
      CONSOLE_PORT: '0',
      INTERNAL_PORT: String(internalPort),
      HOST: '127.0.0.1',
      CONSOLE_HOST: '127.0.0.1',
      INTERNAL_HOST: '127.0.0.1',
      ...env,
    },
    readyOutput: READY[name],
    ...options,
  }).catch((error: Error) => {
    // Another process took the port after it was found free.
    if (env.INTERNAL_PORT === undefined && error.message.includes(`port ${internalPort} is taken`)) return undefined;
    throw error;
  });
  if (!app) return startApp(name, env, options);
  const port = /"port":(\d+)/.exec(app.output())?.[1];
  const url = port ? `http://127.0.0.1:${port}` : '';
  if (name === 'ingress') ingressOrigins.add(url);
  async function readMetrics(names: string[]): Promise<number[]> {
    const signal = AbortSignal.timeout(PATIENCE_MS);
    const response = await fetch(`http://127.0.0.1:${internalPort}/metrics`, { signal });
    const lines = (await response.text())
      .replaceAll(/,?process="\w+"/g, '')
      .replaceAll('{}', '')
      .split('\n');
    return names.map((name) => {
      const line = lines.find((text) => text.startsWith(`${name} `));
      if (line === undefined && !COUNTER.test(name)) throw new Error(`${name} is left out`);
      return Number(line?.slice(name.length + 1) ?? 0);
    });
  }
  return { ...app, url, readMetrics, readMetric: async (name) => (await readMetrics([name]))[0] as number };
}

/** The name of a counter, or of a series of a histogram. */
const COUNTER = /_(total|sum|count|bucket)({|$)/;

const UNFINISHED = ['waiting', 'active', 'delayed', 'prioritized'].map((state) => `opm_queue_jobs{state="${state}"}`);

/** Whether the queues have no unfinished job, in any state at one moment, as a worker reports it. */
export const hasNoJobs = async (worker: TestApp): Promise<boolean> =>
  (await worker.readMetrics(UNFINISHED)).every((jobs) => jobs === 0);

type CommandResult = { code: number; stdout: string; stderr: string };

/** The path of the built command line. */
export const OPM = fileURLToPath(new URL('../../../apps/cli/bin/opm.js', import.meta.url));

/** Runs the built command line until it exits. */
export function runOpm(args: string[], env: NodeJS.ProcessEnv, { cwd = '.' } = {}): Promise<CommandResult> {
  const options = { cwd, env: { ...process.env, ...env }, maxBuffer: 256 * 1024 * 1024 };
  return promisify(execFile)(process.execPath, [OPM, ...args], options).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    ({ code, stdout, stderr }: CommandResult) => ({ code, stdout, stderr }),
  );
}

/** Limit of a producer's call and of a partner's request in tests that are not about this limit, in ms. */
export const ANSWER_TIMEOUT_MS = 30_000;

/**
 * Environment of all tests: limits that a slow machine does not reach. A test of a limit sets it for its own processes.
 */
export const WIDE_LIMITS = {
  ANSWER_TIMEOUT_MS: String(ANSWER_TIMEOUT_MS),
  EVENT_LOOP_MAX_DELAY_MS: '600000',
  PENDING_MAX_ENTRIES: '1000000',
  SHUTDOWN_TIMEOUT_MS: '120000',
};
