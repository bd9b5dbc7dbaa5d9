import { fileURLToPath } from 'node:url';
import { startProcess, type TestProcess } from './start-process.js';

export interface TestApp extends TestProcess {
  /** Where it listens, such as http://127.0.0.1:12345; empty for the worker, which does not. */
  url: string;
}

const READY = {
  ingress: /"msg":"accepting entries"/,
  worker: /"msg":"taking jobs"/,
  console: /"msg":"dashboard is up"/,
};

/** Runs one of the apps as its own process, as built, on free loopback ports. */
export async function startApp(name: keyof typeof READY, env: NodeJS.ProcessEnv): Promise<TestApp> {
  const app = await startProcess({
    file: fileURLToPath(new URL(`../../../apps/${name}/dist/main.js`, import.meta.url)),
    env: { PORT: '0', CONSOLE_PORT: '0', INTERNAL_PORT: '0', HOST: '127.0.0.1', CONSOLE_HOST: '127.0.0.1', ...env },
    readyOutput: READY[name],
  });
  const port = /"port":(\d+)/.exec(app.output())?.[1];
  return { ...app, url: port ? `http://127.0.0.1:${port}` : '' };
}
