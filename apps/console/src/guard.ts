import { createHash, timingSafeEqual } from 'node:crypto';
import type { NextFunction, Request, RequestHandler, Response } from 'express';
import { ipKeyGenerator, rateLimit } from 'express-rate-limit';

/** The part of a pino logger that the console uses. */
export interface ConsoleLogger {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

const WRONG_PASSWORDS_PER_MINUTE = 20;

/**
 * Requires HTTP Basic authentication with any user name and this password. After 20 wrong passwords in a minute, an
 * address gets 429 until the minute ends, even for the right password: otherwise an attacker could keep guessing. A
 * request without a password, such as a browser's first one, does not count. @throws TypeError if the password is empty
 */
export function requirePassword({ password, logger }: { password: string; logger?: ConsoleLogger }): RequestHandler {
  if (!password) throw new TypeError('the console needs a password');
  const expected = digest(password);
  const failures = rateLimit({
    windowMs: 60_000,
    limit: WRONG_PASSWORDS_PER_MINUTE,
    keyGenerator: addressOf,
    standardHeaders: 'draft-8',
    legacyHeaders: false,
    message: 'too many wrong passwords, try again in a minute\n',
    // X-Forwarded-For is ignored because clients can forge it. Behind a proxy, all operators share its address.
    validate: { xForwardedForHeader: false, forwardedHeader: false },
  });

  return async (request, response, next) => {
    const given = readPassword(request.get('authorization'));
    if (given === undefined) return askForPassword(response, 'password required');
    if (timingSafeEqual(digest(given), expected) && !(await isLocked(request))) return next();
    return failures(request, response, () => {
      logger?.warn({ address: request.ip }, 'console login failed'); // the rate limit bounds the number of lines
      askForPassword(response, 'wrong password');
    });
  };

  async function isLocked(request: Request): Promise<boolean> {
    const window = await failures.getKey(addressOf(request));
    return (
      window?.resetTime !== undefined && window.resetTime > new Date() && window.totalHits >= WRONG_PASSWORDS_PER_MINUTE
    );
  }
}

function askForPassword(response: Response, why: string): void {
  response.status(401).set('www-authenticate', 'Basic realm="OPM console", charset="UTF-8"');
  response.type('text').send(`${why}\n`);
}

function readPassword(authorization: string | undefined): string | undefined {
  const [, encoded] = /^Basic +([A-Za-z0-9+/=]+)$/i.exec(authorization ?? '') ?? [];
  if (encoded === undefined) return undefined;
  const credentials = Buffer.from(encoded, 'base64').toString('utf8');
  return credentials.slice(credentials.indexOf(':') + 1);
}

/** Hashes to a fixed length, so that the constant-time comparison does not reveal the password's length. */
function digest(password: string): Buffer {
  return createHash('sha256').update(password).digest();
}

function addressOf(request: Request): string {
  return ipKeyGenerator(request.ip ?? '');
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
