import { fileURLToPath } from 'node:url';
import { findFreePort } from '@opm/embedded';
import { startProcess, type TestProcess } from './start-process.js';

export interface TestApp extends TestProcess {
  /** Where it listens, such as http://127.0.0.1:12345; empty for the worker, which does not. */
  url: string;
  /** Reads one of its metrics, by name and labels as they are rendered, without the label `process`; 0 where it is not there. */
  readMetric(name: string): Promise<number>;
}

const READY = {
  ingress: /"msg":"accepting entries"/,
  worker: /"msg":"taking jobs"/,
  console: /"msg":"dashboard is up"/,
};

/** Runs one of the apps as its own process, as built, on free loopback ports. */
export async function startApp(name: keyof typeof READY, env: NodeJS.ProcessEnv): Promise<TestApp> {
  const internalPort = await findFreePort();
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
  });
  const port = /"port":(\d+)/.exec(app.output())?.[1];
  return {
    ...app,
    url: port ? `http://127.0.0.1:${port}` : '',
    async readMetric(metric) {
      const response = await fetch(`http://127.0.0.1:${internalPort}/metrics`);
      const lines = (await response.text())
        .replaceAll(/,?process="\w+"/g, '')
        .replaceAll('{}', '')
        .split('\n');
      const line = lines.find((text) => text.startsWith(`${metric} `));
      return Number(line?.slice(metric.length + 1) ?? 0);
    },
  };
}
