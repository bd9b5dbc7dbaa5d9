import * as http from 'node:http';
import * as https from 'node:https';
import { promisify } from 'node:util';
import * as zlib from 'node:zlib';
import { type Answer, ConnectionError, OpmError, type RateLimit, TimeoutError } from './errors.js';

export interface Request {
  method: 'GET' | 'POST' | 'DELETE';
  path: string;
  body?: string;
  idempotencyKey?: string;
}

export interface Transport {
  /**
   * Makes one attempt, and another one without compression if the server answers 415.
   * @throws ConnectionError if there is no answer; the signal's reason
   */
  request(request: Request, signal: AbortSignal): Promise<Answer>;
  close(): void;
}

interface TransportOptions {
  url: URL;
  apiKey: string;
  /** Timeout of a request, from the time at which it has a connection. */
  timeoutMs: number;
  maxConnections: number;
  agent?: http.Agent | undefined;
  /** Whether to compress large bodies, until the server answers one of them with 415. */
  compress: boolean;
}

/** In UTF-16 code units. Compressing a smaller body takes longer than sending it. */
const COMPRESS_ABOVE = 4 * 1024;
const UNSUPPORTED_MEDIA_TYPE = 415;

const gzip = promisify(zlib.gzip);

/** A compressed body is a Buffer. */
type Attempt = Omit<Request, 'body'> & { body?: string | Buffer };

/** Far larger than the answer to a batch of 1,000 entries. */
const MAX_ANSWER_BYTES = 4 * 1024 * 1024;

/**
 * HTTP over kept-alive connections. Does not use `fetch`: without undici, its connections can be neither limited nor
 * closed.
 */
export function createHttpTransport(options: TransportOptions): Transport {
  const { url, apiKey, timeoutMs, maxConnections, agent } = options;
  const { request: open, Agent } = url.protocol === 'https:' ? https : http;
  const own = agent ? undefined : new Agent({ keepAlive: true, maxSockets: maxConnections });
  const prefix = url.pathname.replace(/\/$/, '');

  let isCompressing = options.compress;

  const attempt = ({ method, path, body, idempotencyKey }: Attempt, signal: AbortSignal): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const headers = {
        'x-api-key': apiKey,
        'user-agent': `opm-client/${VERSION} node/${process.versions.node}`,
        ...(body !== undefined && { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }),
        ...(Buffer.isBuffer(body) && { 'content-encoding': 'gzip' }),
        ...(idempotencyKey !== undefined && { 'idempotency-key': idempotencyKey }),
      };
      const request = openRequest(() => open(url, { method, path: prefix + path, headers, agent: agent ?? own }));
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
        // The timeout starts here, because waiting for a connection does not mean that the server hangs.
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
    });

  return {
    async request(request, signal) {
      const { body = '' } = request;
      if (!isCompressing || body.length <= COMPRESS_ABOVE) return attempt(request, signal);
      const answer = await attempt({ ...request, body: await gzip(body) }, signal);
      if (answer.statusCode !== UNSUPPORTED_MEDIA_TYPE) return answer;
      isCompressing = false;
      return attempt(request, signal);
    },
    close() {
      own?.destroy();
    },
  };
}

/** @throws OpmError if Node refuses the request, for example because the agent is for another protocol */
function openRequest<T>(open: () => T): T {
  try {
    return open();
  } catch (error) {
    throw new OpmError(`cannot make a request: ${(error as Error).message}`);
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
    receipt: headers.receipt?.toString(),
  };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The version in package.json. A test compares them. */
export const VERSION = '0.3.0';

/**
 * Parses the header fields RateLimit-Policy, such as `"burst";q=200;w=2;opm-rate=100`, and RateLimit, such as
 * `"burst";r=5;t=1` (IETF draft-ietf-httpapi-ratelimit-headers-11). The rate is `opm-rate` or, without it, q / w, which
 * is less exact because `w` is rounded up to whole seconds. @returns undefined if they do not give the limit
 */
export function parseRateLimit(policy: unknown, state: unknown): RateLimit | undefined {
  const [burst, seconds, remaining] = [readNumber(policy, 'q'), readNumber(policy, 'w'), readNumber(state, 'r')];
  if (!burst || !seconds || remaining === undefined) return undefined;
  return { burst, perSecond: readNumber(policy, 'opm-rate') || burst / seconds, remaining };
}

/** Parses Retry-After, in seconds or as an HTTP date. @returns seconds from now; undefined if missing or invalid */
export function parseRetryAfter(header: string | undefined, now = Date.now()): number | undefined {
  if (header === undefined) return undefined;
  const text = header.trim();
  if (/^\d{1,9}$/.test(text)) return Number(text);
  // Every HTTP date format begins with the name of the day. Date.parse alone would read "-1" as a year.
  const date = /^[a-z]{3}/i.test(text) ? Date.parse(text) : Number.NaN;
  return Number.isNaN(date) ? undefined : Math.max(0, (date - now) / 1_000);
}

function readNumber(field: unknown, name: string): number | undefined {
  const [, digits] = new RegExp(`^[^,]*;\\s*${name}=(\\d{1,9})(?![\\d.])`).exec(String(field)) ?? [];
  return digits === undefined ? undefined : Number(digits);
}
