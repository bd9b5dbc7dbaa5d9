import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { withTimeout } from '@opm/core';
import {
  type Audit,
  type AuditOutcome,
  type AuditRecord,
  type Operator,
  type Operators,
  ROLES,
  type Role,
  SESSION_HOURS,
} from '@opm/store';
import express, { type Request, type RequestHandler, type Response } from 'express';
import { LRUCache } from 'lru-cache';

/**
 * The operator who sent the request. Every form carries `csrfToken` in a field named {@link CSRF_FIELD}. `isReadOnly`:
 * the console accepts no changes.
 */
export type CurrentOperator = Operator & { csrfToken: string; isReadOnly?: boolean };

/** @returns the operator of a request that `requireOperator` let through */
export const operatorOf = (response: Response): CurrentOperator => response.locals.operator as CurrentOperator;

/** Whether the operator would still be let through. @throws StoreError if PostgreSQL does not answer */
export type IsOpen = () => Promise<boolean>;

export const isOpenOf = (response: Response): IsOpen => response.locals.isOpen as IsOpen;

/** Whether an open page asks for its updates: see `createLive`. */
export const isStream = (request: Request): boolean =>
  request.method === 'GET' && request.get('accept') === 'text/event-stream';

/** Whether the operator has this role or a higher one. */
export const hasRole = ({ role }: Pick<Operator, 'role'>, least: Role): boolean =>
  ROLES.indexOf(role) >= ROLES.indexOf(least);

/**
 * The lowest role that each change needs. `queues`: all changes in the Bull dashboard. `reveal` also needs a separate
 * right.
 */
export const LEAST_ROLES = {
  'projects create': 'admin',
  'projects pause': 'operator',
  'projects resume': 'operator',
  'projects limits': 'operator',
  'keys rotate': 'admin',
  'keys revoke': 'admin',
  'customers erase': 'admin',
  'dead-letters replay': 'operator',
  'dead-letters discard': 'admin',
  'operators add': 'admin',
  'operators role': 'admin',
  'operators password': 'admin',
  'operators remove': 'admin',
  queues: 'operator',
  reveal: 'viewer',
} as const satisfies Record<string, Role>;

/** A change, named by the words of the `opm` command that does the same. The audit log uses the same words. */
export type ChangeAction = keyof typeof LEAST_ROLES;

/** Whether to show the operator the forms of these changes. */
export const mayChange = (operator: CurrentOperator, ...actions: ChangeAction[]): boolean =>
  operator.isReadOnly !== true && actions.every((action) => hasRole(operator, LEAST_ROLES[action]));

/** Answers 403 to operators without this role or a higher one. */
export function requireRole(role: Role): RequestHandler {
  return (request, response, next) => {
    if (hasRole(operatorOf(response), role)) next();
    else refuse(request, response, 403, `this needs the role ${role}`);
  };
}

/** Answers with the reason. The Bull dashboard shows a reason only if it is JSON. */
export function refuse(request: Request, response: Response, status: 401 | 403 | 503, why: string): void {
  response.status(status);
  if (request.originalUrl.startsWith('/queues/api/')) response.json({ error: 'Not done', message: why });
  else response.type('text').send(`${why}\n`);
}

/** `actor`: the operator's name. `action`: the words of the `opm` command that does the same. */
export type ConsoleAuditRecord = Omit<AuditRecord, 'source' | 'address'>;

const toAuditRecord = (request: Request, row: ConsoleAuditRecord) =>
  ({ ...row, source: 'console', address: request.ip }) as const;

/** Writes an audit row about a request. @returns its id @throws StoreError */
export const recordRequest = (audit: Audit, request: Request, row: ConsoleAuditRecord): Promise<string> =>
  audit.record(toAuditRecord(request, row));

/**
 * Records the outcome of the request whose audit row is `attempt`. Never rejects: the response reports the outcome,
 * too.
 */
export const recordOutcome = (
  audit: Audit,
  request: Request,
  { row, attempt, outcome }: { row: Omit<ConsoleAuditRecord, 'details'>; attempt: string; outcome: AuditOutcome },
): Promise<void> => audit.recordOutcome(attempt, outcome, toAuditRecord(request, row)).catch(() => {});

export const CSRF_FIELD = 'csrf';

/** Reads the fields of an HTML form. */
export const parseForm: RequestHandler = express.urlencoded({ extended: false, limit: '16kb' });

/** Answers 403 to a change without the token of a form that this session got. Runs after {@link parseForm}. */
export function requireFormToken(request: Request, response: Response, next: () => void): void {
  const given: unknown = request.body?.[CSRF_FIELD];
  const isChange = request.method !== 'GET' && request.method !== 'HEAD';
  if (!isChange || (typeof given === 'string' && isEqual(given, operatorOf(response).csrfToken))) next();
  else
    response
      .status(403)
      .type('text')
      .send('the form is from another session: go back, reload that page, and send the form again\n');
}

/** Compares two texts in constant time. */
export function isEqual(a: string, b: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}

/** The token of a session's forms, derived from the session's secret. */
export const toCsrfToken = (secret: string): string => createHmac('sha256', secret).update('csrf').digest('base64url');

const COOKIE = 'opm_console';
/**
 * The cookie's name over TLS. Neither another host of the domain nor a page without TLS can set a cookie with this
 * prefix.
 */
const TLS_COOKIE = `__Host-${COOKIE}`;
const toCookieName = ({ secure }: Request): string => (secure ? TLS_COOKIE : COOKIE);

const toPattern = (cookie: string) => new RegExp(`(?:^|; *)${cookie}=([A-Za-z0-9_-]{43})(?:;|$)`);
const PATTERNS: Record<string, RegExp> = { [COOKIE]: toPattern(COOKIE), [TLS_COOKIE]: toPattern(TLS_COOKIE) };

/** How long a session that has ended in PostgreSQL may still be open in this process. */
const CACHE_MS = 2_000;
const MAX_CACHED = 1_000;

export type Sessions = ReturnType<typeof createSessions>;

/**
 * The sessions of browsers, in PostgreSQL. A cookie has the token; PostgreSQL has only a hash with CONSOLE_PASSWORD as
 * its key, so another CONSOLE_PASSWORD ends all sessions, and someone who can write to the table cannot forge one.
 */
export function createSessions({ operators, password }: { operators: Operators; password: string }) {
  const cache = new LRUCache<string, Promise<Operator | undefined>>({ max: MAX_CACHED, ttl: CACHE_MS });
  const hashOf = (token: string) => createHmac('sha256', password).update(token).digest('hex');

  function find(tokenHash: string): Promise<Operator | undefined> {
    const cached = cache.get(tokenHash);
    if (cached) return cached;
    const found = operators.findSession(tokenHash);
    cache.set(tokenHash, found);
    found.catch(() => cache.delete(tokenHash));
    return found;
  }

  return {
    has: (request: Request): boolean => readToken(request) !== undefined,

    /** @throws StoreError if PostgreSQL does not answer */
    async find(request: Request): Promise<CurrentOperator | undefined> {
      const token = readToken(request);
      const operator = token === undefined ? undefined : await find(hashOf(token));
      return operator && token !== undefined ? { ...operator, csrfToken: toCsrfToken(token) } : undefined;
    },

    /** Draws a token for a session that the store opens. */
    draw(): { token: string; tokenHash: string } {
      const token = randomBytes(32).toString('base64url');
      return { token, tokenHash: hashOf(token) };
    },

    /** The cookie ends with the session. It is `Secure` if the request came by TLS, here or at a trusted proxy. */
    setCookie(request: Request, response: Response, token: string): void {
      response.cookie(toCookieName(request), token, { ...toAttributes(request), maxAge: SESSION_HOURS * 3_600_000 });
    },

    clearCookie(request: Request, response: Response): void {
      response.clearCookie(toCookieName(request), toAttributes(request));
    },

    /** Ends the session of the request, if it has one. @throws StoreError */
    async end(request: Request): Promise<void> {
      const token = readToken(request);
      if (token === undefined) return;
      await operators.endSession(hashOf(token));
      cache.delete(hashOf(token));
    },
  };
}

function readToken(request: Request): string | undefined {
  return PATTERNS[toCookieName(request)]?.exec(request.get('cookie') ?? '')?.[1];
}

const toAttributes = (request: Request) =>
  ({ httpOnly: true, sameSite: 'strict', path: '/', secure: request.secure }) as const;

/** PostgreSQL counts as unreachable if it does not answer for this long. */
export const ANSWER_MS = 3_000;

export type BuiltInOperator = ReturnType<typeof watchBuiltInOperator>;

/**
 * Whether CONSOLE_PASSWORD is accepted: until a stored operator is an admin. While PostgreSQL does not answer, the last
 * known answer counts. If none is known, the password is accepted, because then nobody else can log in either.
 * @param onSilence is called when PostgreSQL stops answering
 */
export function watchBuiltInOperator(operators: Operators, onSilence: (error: unknown) => void) {
  const state = { isAccepted: true, isReachable: true };
  let until = 0;
  let reading: Promise<void> | undefined;

  async function read(): Promise<void> {
    try {
      state.isAccepted = !(await withTimeout(operators.hasAdmin(), ANSWER_MS));
      state.isReachable = true;
    } catch (error) {
      if (state.isReachable) onSilence(error);
      state.isReachable = false;
    } finally {
      until = performance.now() + CACHE_MS;
      reading = undefined;
    }
  }

  return async (): Promise<Readonly<typeof state>> => {
    if (performance.now() >= until) {
      reading ??= read();
      await reading;
    }
    return state;
  };
}
