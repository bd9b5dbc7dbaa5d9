import { afterEach } from '@jest/globals';
import { createStore, type Store } from '@opm/store';
import { type ConsoleAppOptions, createConsoleApp, serveConsole } from '../src/app.js';

export const PASSWORD = 'a käse for the console';

const running: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const server of running.splice(0).reverse()) await server.close();
});

/** Opens a store until the end of the test. Without a URL, it is one that does not answer. */
export function openStore(databaseUrl = 'postgresql://127.0.0.1:1/none'): Store {
  const store = createStore({ databaseUrl, applicationName: 'test' });
  running.push(store);
  return store;
}

export type Dashboard = Awaited<ReturnType<typeof openDashboard>>;

/**
 * Starts a console on a free port and closes it after the test. `get` and `send` send CONSOLE_PASSWORD; `login: false`
 * turns that off.
 */
export async function openDashboard(options: Partial<ConsoleAppOptions> = {}) {
  const app = createConsoleApp({ queues: [], store: options.store ?? openStore(), password: PASSWORD, ...options });
  const server = await serveConsole({ app, port: 0, host: '127.0.0.1' });
  running.push(server);
  const request = (method: string, path: string, headers: Record<string, string>, body?: string | URLSearchParams) =>
    fetch(`http://127.0.0.1:${server.port}${path}`, { method, headers, redirect: 'manual', ...(body && { body }) });
  const get = (path: string, headers: Record<string, string> = {}, { login = true } = {}) =>
    request('GET', path, { ...(login && { authorization: basic(PASSWORD) }), ...headers });
  return {
    port: server.port,
    get,
    /** Like a browser: with a session instead of the password. */
    open: (path: string, cookie = '') => request('GET', path, { accept: 'text/html', cookie }),
    submit: (path: string, fields: Record<string, string>, cookie = '') =>
      request(
        'POST',
        path,
        { accept: 'text/html', 'sec-fetch-site': 'same-origin', cookie },
        new URLSearchParams(fields),
      ),
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
