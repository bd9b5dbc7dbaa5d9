import { randomBytes } from 'node:crypto';
import { withTimeout } from '@opm/core';
import { BUILT_IN_OPERATOR, type Store, StoreError } from '@opm/store';
import type { NextFunction, Request, RequestHandler, Response } from 'express';
import { ipKeyGenerator } from 'express-rate-limit';
import { LRUCache } from 'lru-cache';
import { sendOutage } from './pages/components.js';
import {
  ANSWER_MS,
  type BuiltInOperator,
  type ConsoleAuditRecord,
  type CurrentOperator,
  createSessions,
  type IsOpen,
  isEqual,
  isStream,
  recordRequest,
  refuse,
  type Sessions,
  toCsrfToken,
  watchBuiltInOperator,
} from './session.js';

/** The part of a pino logger that the console uses. */
export interface ConsoleLogger {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/** What logins and the check of each request share. */
export type Access = {
  password: string;
  store: Pick<Store, 'operators' | 'audit'>;
  sessions: Sessions;
  readBuiltIn: BuiltInOperator;
  /**
   * Counts wrong passwords by address and by name. Behind a proxy that `trustedProxies` does not include, all operators
   * share the proxy's address.
   */
  byAddress: Attempts;
  byName: Attempts;
  /**
   * Writes an audit row, before the change. With `isRequired: false`, a failure is only logged, and the result is
   * undefined.
   * @returns the id of the row @throws StoreError
   */
  record(request: Request, row: ConsoleAuditRecord, options?: { isRequired: boolean }): Promise<string | undefined>;
  logger?: ConsoleLogger | undefined;
};

const ATTEMPTS_OF_ADDRESS = 20;
const ATTEMPTS_OF_NAME = 10;
const ATTEMPTS_WINDOW_MS = 60_000;

/** @throws TypeError if the password is empty */
export function createAccess(
  options: Pick<Access, 'password' | 'store' | 'logger'> & { attemptsWindowMs?: number },
): Access {
  const { password, store, logger, attemptsWindowMs: windowMs = ATTEMPTS_WINDOW_MS } = options;
  if (!password) throw new TypeError('the console needs a password');
  return {
    password,
    store,
    logger,
    sessions: createSessions({ operators: store.operators, password }),
    readBuiltIn: watchBuiltInOperator(store.operators, (error) =>
      logger?.warn({ err: error }, 'PostgreSQL does not answer: nobody can log in by name until it does'),
    ),
    byAddress: createAttempts(ATTEMPTS_OF_ADDRESS, { windowMs }),
    byName: createAttempts(ATTEMPTS_OF_NAME, { windowMs }),
    async record(request, row, { isRequired } = { isRequired: true }) {
      return recordRequest(store.audit, request, row).catch((error) => {
        if (isRequired) throw error;
        logger?.warn({ err: error, action: row.action }, 'the audit log could not be written');
        return undefined;
      });
    },
  };
}

/**
 * Lets operators through: browsers with a session, scripts with CONSOLE_PASSWORD as HTTP Basic and any user name. Sets
 * `response.locals.operator`. Redirects a browser's page to /login; other requests get 401. If PostgreSQL does not
 * answer, responds with 503, or asks for CONSOLE_PASSWORD if that may help. After 20 wrong passwords in a minute, an
 * address gets 429 until the minute ends, even for the right password, so that guessing cannot go on. A request without
 * a password does not count.
 */
export function requireOperator({
  password,
  sessions,
  readBuiltIn,
  byAddress,
  record,
  logger,
}: Access): RequestHandler {
  const csrfToken = toCsrfToken(randomBytes(32).toString('base64url'));

  /** If challenged, a browser would open its own password dialogue over the page. */
  const isScript = (request: Request) =>
    !sessions.has(request) && request.get('sec-fetch-site') === undefined && !isStream(request);

  async function findOperator(request: Request): Promise<CurrentOperator | undefined | 'unreachable'> {
    return withTimeout(sessions.find(request), ANSWER_MS).catch((error) => {
      if (error instanceof StoreError && error.kind === 'unknown') throw error;
      return 'unreachable' as const;
    });
  }

  return async (request, response, next) => {
    const { isAccepted, isReachable } = await readBuiltIn();
    const found = isReachable ? await findOperator(request) : 'unreachable';
    const isAnswering = found !== 'unreachable';
    if (found && isAnswering) return enter(found, async () => (await sessions.find(request)) !== undefined);

    const given = readPassword(request.get('authorization'));
    if (given !== undefined) {
      const address = addressOf(request);
      if (byAddress.secondsLeft(address) > 0) return refuseForNow(response, byAddress.secondsLeft(address));
      if (!isEqual(given, password)) {
        byAddress.count(address);
        logger?.warn({ address: request.ip }, 'console login failed'); // the limit bounds the number of lines
        await record(request, { actor: UNKNOWN_ACTOR, action: 'login failed' }, { isRequired: false });
        return askForPassword(response, 'wrong password');
      }
      if (isAccepted) return enter({ ...BUILT_IN_OPERATOR, csrfToken }, async () => (await readBuiltIn()).isAccepted);
    }

    // All pages need PostgreSQL. The Bull dashboard may not, so there the password helps even if the browser has a
    // session.
    const mayAsk = isAccepted && (!sessions.has(request) || request.path.startsWith('/queues'));
    if (isPage(request) && isAnswering) response.redirect(303, toLoginPath(request));
    else if (isPage(request) && !mayAsk) sendOutage(request, response);
    else if (given !== undefined)
      refuse(request, response, 401, 'CONSOLE_PASSWORD is not accepted any more: log in at /login');
    else if (isScript(request) || isPage(request)) askForPassword(response, 'password required');
    else if (isAnswering) refuse(request, response, 401, 'log in at /login');
    else refuse(request, response, 503, 'PostgreSQL does not answer');

    function enter(operator: CurrentOperator, isOpen: IsOpen): void {
      Object.assign(response.locals, { operator, isOpen });
      next();
    }
  };
}

/**
 * The actor of a failed login with an unknown name. The name is not recorded: it may be a password in the wrong field.
 */
export const UNKNOWN_ACTOR = '-';

const isPage = (request: Request): boolean => (request.get('accept') ?? '').includes('text/html');

function toLoginPath(request: Request): string {
  return request.method === 'GET' && request.originalUrl !== '/'
    ? `/login?next=${encodeURIComponent(request.originalUrl)}`
    : '/login';
}

function askForPassword(response: Response, why: string): void {
  response.status(401).set('www-authenticate', 'Basic realm="OPM console", charset="UTF-8"');
  response.type('text').send(`${why}\n`);
}

function refuseForNow(response: Response, seconds: number): void {
  response.status(429).set('retry-after', String(seconds));
  response.type('text').send('too many wrong passwords, try again in a minute\n');
}

function readPassword(authorization: string | undefined): string | undefined {
  const [, encoded] = /^Basic +([A-Za-z0-9+/=]+)$/i.exec(authorization ?? '') ?? [];
  if (encoded === undefined) return undefined;
  const credentials = Buffer.from(encoded, 'base64').toString('utf8');
  return credentials.slice(credentials.indexOf(':') + 1);
}

/** `request.ip` uses X-Forwarded-For only as far as `trustedProxies` allows. An IPv6 network counts as one address. */
export function addressOf(request: Request): string {
  return ipKeyGenerator(request.ip ?? '');
}

/**
 * Wrong passwords for 10,000 other names would push a name out of the cache, but that takes an hour: passwords are
 * checked one at a time, in 0.4 s each. An attacker with 10,000 addresses need not push one out.
 */
const MAX_KEYS = 10_000;

type Attempts = ReturnType<typeof createAttempts>;

/** Counts wrong passwords per key in windows of time. If there are too many keys, it forgets the oldest. */
export function createAttempts(
  limit: number,
  { windowMs, maxKeys = MAX_KEYS }: { windowMs: number; maxKeys?: number },
) {
  // `peek` does not refresh an entry, so the cache evicts the oldest window first.
  const windows = new LRUCache<string, { count: number }>({ max: maxKeys, ttl: windowMs });
  return {
    /** @returns the seconds until the key may try again; 0 if it may now */
    secondsLeft(key: string): number {
      const { count = 0 } = windows.peek(key) ?? {};
      return count >= limit ? Math.ceil(windows.getRemainingTTL(key) / 1_000) : 0;
    },

    count(key: string): void {
      const window = windows.peek(key);
      if (window) window.count++;
      else windows.set(key, { count: 1 });
    },

    /** Undoes a count, because the password was right or could not be checked. A count of 0 is not kept. */
    takeBack(key: string): void {
      const window = windows.peek(key);
      if (window && --window.count === 0) windows.delete(key);
    },
  };
}

/**
 * Refuses cross-site requests that change something: browsers attach the password to requests from any site. A request
 * with neither Sec-Fetch-Site nor Origin is not from a browser's page and passes; it still needs the password.
 */
export function refuseCrossSite(request: Request, response: Response, next: NextFunction): void {
  if (request.method === 'GET' || request.method === 'HEAD' || isSameOrigin(request)) next();
  else response.status(403).type('text').send('cross-site request refused\n');
}

function isSameOrigin(request: Request): boolean {
  const site = request.get('sec-fetch-site');
  if (site !== undefined) return site === 'same-origin';
  const origin = request.get('origin');
  return origin === undefined || (URL.canParse(origin) && new URL(origin).host === request.get('host'));
}
