import { fileURLToPath } from 'node:url';
import { findFreePort } from '@opm/embedded';
import { type ProcessOptions, startProcess, type TestProcess } from './start-process.js';
import { PATIENCE_MS } from './wait-for.js';

export interface TestApp extends TestProcess {
  /** Where it listens, such as http://127.0.0.1:12345; empty for the worker, which does not. */
  url: string;
  /** Reads one of its metrics, by name and labels as they are rendered, without the label `process`; 0 where it is not there. */
  readMetric(name: string): Promise<number>;
}

export type StartOptions = Pick<ProcessOptions, 'timeoutMs' | 'detached'>;

const READY = {
  ingress: /"msg":"accepting entries"/,
  worker: /"msg":"taking jobs"/,
  console: /"msg":"dashboard is up"/,
};

export type AppName = keyof typeof READY;

/** Where the ingresses listen that were started here. */
export const ingressOrigins = new Set<string>();

/** Runs one of the apps as its own process, as built, on loopback ports that are free unless they are given. */
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
  });
  const port = /"port":(\d+)/.exec(app.output())?.[1];
  const url = port ? `http://127.0.0.1:${port}` : '';
  if (name === 'ingress') ingressOrigins.add(url);
  return {
    ...app,
    url,
    async readMetric(metric) {
      const signal = AbortSignal.timeout(PATIENCE_MS);
      const response = await fetch(`http://127.0.0.1:${internalPort}/metrics`, { signal });
      const lines = (await response.text())
        .replaceAll(/,?process="\w+"/g, '')
        .replaceAll('{}', '')
        .split('\n');
      const line = lines.find((text) => text.startsWith(`${metric} `));
      return Number(line?.slice(metric.length + 1) ?? 0);
    },
  };
}
