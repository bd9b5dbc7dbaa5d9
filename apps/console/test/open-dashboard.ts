import { afterEach } from '@jest/globals';
import { type ConsoleAppOptions, type ConsoleServer, createConsoleApp, serveConsole } from '../src/app.js';

export const PASSWORD = 'a käse for the console';

const running: ConsoleServer[] = [];
afterEach(async () => {
  for (const server of running.splice(0)) await server.close();
});

export type Dashboard = Awaited<ReturnType<typeof openDashboard>>;

/**
 * Starts a console on a free port and closes it after the test. `get` and `send` log in; `login: false` turns that off.
 */
export async function openDashboard(options: Partial<ConsoleAppOptions> = {}) {
  const app = createConsoleApp({ queues: [], password: PASSWORD, ...options });
  const server = await serveConsole({ app, port: 0, host: '127.0.0.1' });
  running.push(server);
  const request = (method: string, path: string, headers: Record<string, string>, body?: string) =>
    fetch(`http://127.0.0.1:${server.port}${path}`, { method, headers, redirect: 'manual', ...(body && { body }) });
  const get = (path: string, headers: Record<string, string> = {}, { login = true } = {}) =>
    request('GET', path, { ...(login && { authorization: basic(PASSWORD) }), ...headers });
  return {
    port: server.port,
    get,
    getJson: async (path: string) => (await get(path)).json(),
    send: (method: string, path: string, headers: Record<string, string> = {}) => {
      const own = { authorization: basic(PASSWORD), 'content-type': 'application/json' };
      return request(method.toUpperCase(), path, { ...own, ...headers }, '{}');
    },
  };
}

/** The Authorization header that a browser sends for this password. */
export function basic(password: string): string {
  return `Basic ${Buffer.from(`operator:${password}`).toString('base64')}`;
}
