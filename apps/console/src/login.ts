import { createHash, timingSafeEqual } from 'node:crypto';
import type { Request, RequestHandler, Response } from 'express';
import { ipKeyGenerator, rateLimit } from 'express-rate-limit';
import type { ConsoleLogger } from './logger.js';

const WRONG_PASSWORDS_PER_MINUTE = 20;

/**
 * HTTP Basic: any user name, this password. After 20 wrong passwords in a minute an address gets 429, even for
 * the right one: otherwise guessing could go on. A request without a password (a browser's first) isn't a guess.
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
    // Behind a proxy all operators share its address, which is what we want: X-Forwarded-For can be made up.
    validate: { xForwardedForHeader: false, forwardedHeader: false },
  });

  return async (request, response, next) => {
    const given = readPassword(request.get('authorization'));
    if (given === undefined) return askForPassword(response, 'password required');
    if (timingSafeEqual(digest(given), expected) && !(await isLocked(request))) return next();
    return failures(request, response, () => {
      logger?.warn({ address: request.ip }, 'console login failed'); // no more lines than there may be guesses
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

/** One length for all passwords, so that the comparison tells nothing of theirs. */
function digest(password: string): Buffer {
  return createHash('sha256').update(password).digest();
}

function addressOf(request: Request): string {
  return ipKeyGenerator(request.ip ?? '');
}
