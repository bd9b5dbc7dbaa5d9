import { join } from 'node:path';
import { readJsonFile, readStackFile } from '../stack/stack-file.js';
import type { DemoSecrets } from '../stack/up.js';
import { UserError } from '../user-error.js';
import { dataDirOf } from '../with-store.js';

/** The API that a burst is sent to, over kept-alive connections. */
export type Target = {
  url: string;
  /** Rejects if there is no answer. */
  request(call: { method: 'GET' | 'POST'; path: string; body?: string }): Promise<{ status: number; text: string }>;
  close(): Promise<void>;
};

export type Address = { url: string; key: string };

const TIMEOUT_MS = 30_000;

/**
 * Takes the address and key from the options, then from OPM_URL and OPM_KEY, then from the stack that runs in the data
 * folder and its demo project. @throws UserError if one is missing
 */
export async function findAddress(given: Partial<Address>, env: NodeJS.ProcessEnv): Promise<Address> {
  const [url, key] = [given.url || env.OPM_URL, given.key || env.OPM_KEY];
  if (key && !/^[\x21-\x7e]+$/.test(key))
    throw new UserError('the API key must consist of visible ASCII characters', 'usage');
  if (url && key) return { url, key };
  if (url) throw new UserError('no API key: set OPM_KEY or --key', 'usage');
  const dataDir = dataDirOf(env);
  const stack = await readStackFile(dataDir);
  if (!stack) {
    throw new UserError(
      `no stack is running in ${dataDir}: run \`npm start\`, or set --url and OPM_KEY to use another API`,
      'unavailable',
    );
  }
  const demo = await readJsonFile<DemoSecrets>(join(dataDir, 'demo.json'));
  const demoKey = key || demo?.apiKey;
  if (!stack.url || !demoKey)
    throw new UserError(`the stack in ${dataDir} is still starting; try again in a moment`, 'unavailable');
  return { url: stack.url, key: demoKey };
}

/** Connects and checks the key with GET /ping. @throws UserError if the address or the key is wrong */
export async function openTarget({ url, key }: Address, connections: number): Promise<Target> {
  const { origin, pathname } = parseUrl(url);
  const { Pool } = await import('undici'); // imported lazily because it loads slowly
  const pool = new Pool(origin, { connections, headersTimeout: TIMEOUT_MS, bodyTimeout: TIMEOUT_MS });
  const prefix = pathname.replace(/\/$/, '');
  const headers = { 'x-api-key': key, 'content-type': 'application/json' };
  const target: Target = {
    url: origin + prefix,
    async request({ path, ...call }) {
      const { statusCode, body } = await pool.request({ ...call, path: prefix + path, headers });
      return { status: statusCode, text: await body.text() };
    },
    close: () => pool.destroy(),
  };
  try {
    await assertPong(target);
    return target;
  } catch (error) {
    await target.close();
    throw error;
  }
}

function parseUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url && /^https?:$/.test(url.protocol)) return url;
  throw new UserError(`${text} is not an http or https URL`, 'usage');
}

async function assertPong(target: Target): Promise<void> {
  const { status, text } = await target.request({ method: 'GET', path: '/ping' }).catch((error) => {
    throw new UserError(`cannot reach ${target.url}: ${toCode(error)}`, 'unavailable');
  });
  if (status === 200 && text.includes('pong')) return;
  if (status === 401) throw new UserError(`${target.url} rejected the API key (401)`);
  throw new UserError(`${target.url}/ping answered ${status}: ${text.slice(0, 200)}`);
}

/** The code of a connection error, such as ECONNREFUSED, or its message. */
export function toCode(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  return code ?? message;
}
