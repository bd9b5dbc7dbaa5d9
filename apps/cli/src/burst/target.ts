import { join } from 'node:path';
import type { DemoSecrets } from '../stack/demo.js';
import { readJsonFile, readStackFile } from '../stack/stack-file.js';
import { UserError } from '../user-error.js';
import { dataDirOf } from '../with-store.js';

/** Where a burst goes, with connections that are kept open. */
export type Target = {
  url: string;
  /** Rejects where no answer comes. */
  request(call: { method: 'GET' | 'POST'; path: string; body?: string }): Promise<{ status: number; text: string }>;
  close(): Promise<void>;
};

export type Address = { url: string; key: string };

const TIMEOUT_MS = 30_000;

/** What was given, as an option or in OPM_URL and OPM_KEY; else the stack that runs in the data folder, and its demo project. */
export async function findAddress(given: Partial<Address>, env: NodeJS.ProcessEnv): Promise<Address> {
  const [url, key] = [given.url || env.OPM_URL, given.key || env.OPM_KEY];
  if (key && !/^[\x21-\x7e]+$/.test(key)) throw new UserError('the API key must be visible ASCII characters only');
  if (url && key) return { url, key };
  if (url) throw new UserError('no API key: set OPM_KEY, or say --key');
  const dataDir = dataDirOf(env);
  const stack = await readStackFile(dataDir);
  if (!stack) {
    throw new UserError(
      `no stack runs in ${dataDir}: start one with \`npm start\`, or say --url and set OPM_KEY for another one`,
    );
  }
  const demo = await readJsonFile<DemoSecrets>(join(dataDir, 'demo.json'));
  const demoKey = key || demo?.apiKey;
  if (!stack.url || !demoKey) throw new UserError(`the stack in ${dataDir} is still starting; try again in a moment`);
  return { url: stack.url, key: demoKey };
}

/** @throws UserError where the address or the key is wrong */
export async function openTarget({ url, key }: Address, connections: number): Promise<Target> {
  const { origin, pathname } = parseUrl(url);
  const { Pool } = await import('undici'); // only now, for it takes long to load
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
  throw new UserError(`${text} is not an http or https URL`);
}

async function assertPong(target: Target): Promise<void> {
  const { status, text } = await target.request({ method: 'GET', path: '/ping' }).catch((error) => {
    throw new UserError(`${target.url} cannot be reached: ${toCode(error)}`);
  });
  if (status === 200 && text.includes('pong')) return;
  if (status === 401) throw new UserError(`${target.url} does not know the API key (401)`);
  throw new UserError(`${target.url}/ping answered ${status}: ${text.slice(0, 200)}`);
}

/** The short name of what went wrong on the way, such as ECONNREFUSED. */
export function toCode(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  return code ?? message;
}
