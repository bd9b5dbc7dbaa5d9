import * as http from 'node:http';
import * as https from 'node:https';
import { ConnectionError, OpmError, TimeoutError } from './errors.js';
import { parseRateLimit, type RateLimit } from './rate-limit.js';
import { parseRetryAfter } from './retry-after.js';
import { VERSION } from './version.js';

export interface Request {
  method: 'GET' | 'POST' | 'DELETE';
  path: string;
  body?: string;
  idempotencyKey?: string;
}

export interface Answer {
  statusCode: number;
  /** The parsed JSON; undefined where it is none. */
  body: unknown;
  requestId: string | undefined;
  /** Seconds. */
  retryAfter: number | undefined;
  rateLimit: RateLimit | undefined;
}

export interface Transport {
  /** One try. @throws ConnectionError where no answer comes; the signal's reason */
  request(request: Request, signal: AbortSignal): Promise<Answer>;
  close(): void;
}

export interface TransportOptions {
  url: URL;
  apiKey: string;
  /** For a request from its connection on. */
  timeoutMs: number;
  maxConnections: number;
  agent?: http.Agent | undefined;
}

/** Far above what 1,000 results take. */
const MAX_ANSWER_BYTES = 4 * 1024 * 1024;

/** HTTP over connections that are kept open. Not `fetch`, whose connections can be neither bounded nor closed without undici. */
export function createHttpTransport({ url, apiKey, timeoutMs, maxConnections, agent }: TransportOptions): Transport {
  const { request: open, Agent } = url.protocol === 'https:' ? https : http;
  const own = agent ? undefined : new Agent({ keepAlive: true, maxSockets: maxConnections });
  const prefix = url.pathname.replace(/\/$/, '');

  return {
    request: ({ method, path, body, idempotencyKey }, signal) =>
      new Promise((resolve, reject) => {
        const headers = {
          'x-api-key': apiKey,
          'user-agent': `opm-client/${VERSION} node/${process.versions.node}`,
          ...(body !== undefined && { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }),
          ...(idempotencyKey !== undefined && { 'idempotency-key': idempotencyKey }),
        };
        const request = attempt(() => open(url, { method, path: prefix + path, headers, agent: agent ?? own }));
        let timer: NodeJS.Timeout | undefined;
        let isLate = false;
        let isAnswered = false;
        const onAbort = () => request.destroy();
        const fail = (reason: string) => {
          if (signal.aborted) reject(signal.reason);
          else if (isLate) reject(new TimeoutError(`no answer from ${url.origin} within ${timeoutMs} ms`));
          else reject(new ConnectionError(`no answer from ${url.origin}: ${reason}`));
        };
        request
          // Only now: waiting for a connection is no sign that the server hangs.
          .on('socket', () => {
            timer = setTimeout(() => {
              isLate = true;
              request.destroy();
            }, timeoutMs);
          })
          .on('response', (response) => {
            isAnswered = true;
            readText(response).then((text) => resolve(toAnswer(response, text)), toReason(fail));
          })
          .on('error', toReason(fail))
          .on('close', () => {
            clearTimeout(timer);
            signal.removeEventListener('abort', onAbort);
            if (!isAnswered) fail('the connection was closed');
          });
        signal.addEventListener('abort', onAbort);
        if (signal.aborted) onAbort();
        request.end(body);
      }),
    close() {
      own?.destroy();
    },
  };
}

/** An agent for the other protocol is refused in words of Node's own. */
function attempt<T>(open: () => T): T {
  try {
    return open();
  } catch (error) {
    throw new OpmError(`no request can be made: ${(error as Error).message}`);
  }
}

async function readText(response: http.IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response) {
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes > MAX_ANSWER_BYTES) throw new Error('the answer is too large');
  }
  return Buffer.concat(chunks).toString();
}

const toReason = (fail: (reason: string) => void) => (error: NodeJS.ErrnoException) =>
  fail(error.code ?? error.message);

function toAnswer({ statusCode = 0, headers }: http.IncomingMessage, text: string): Answer {
  return {
    statusCode,
    body: parseJson(text),
    requestId: headers['x-request-id']?.toString(),
    retryAfter: parseRetryAfter(headers['retry-after']),
    rateLimit: parseRateLimit(headers['ratelimit-policy'], headers.ratelimit),
  };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
