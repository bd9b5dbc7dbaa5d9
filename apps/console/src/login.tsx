import { BUILT_IN_OPERATOR, failureKindOf } from '@opm/store';
import { type Request, type Response, Router } from 'express';
import { render } from 'preact-render-to-string';
import { type Access, addressOf, UNKNOWN_ACTOR } from './guard.js';
import { CSRF_FIELD, type CurrentOperator, isEqual, operatorOf, parseForm, requireFormToken } from './session.js';

/** Each check of a password takes 0.4 s of one core, one after the other. */
const MAX_CHECKS_IN_FLIGHT = 10;

/** GET and POST /login. Needs no session; `refuseCrossSite` protects the form. */
export function createLoginRoutes(access: Access): Router {
  const { password, store, sessions, byAddress, byName, record, logger } = access;
  let checks = 0;

  async function logIn(request: Request, response: Response): Promise<void> {
    const [name, given, next] = ['name', 'password', 'next'].map((field) => readField(request, field)) as FormFields;
    const keys = [
      [byAddress, addressOf(request)],
      [byName, name.slice(0, MAX_NAME_LENGTH)],
    ] as const;
    const seconds = Math.max(...keys.map(([attempts, key]) => attempts.secondsLeft(key)));
    if (seconds > 0) {
      response.set('retry-after', String(seconds));
      return show(response, 429, { name, next, problem: 'Too many attempts. Try again in a minute.' });
    }
    // Counted before the check, so that requests at the same time cannot pass the limits.
    for (const [attempts, key] of keys) attempts.count(key);
    if (checks >= MAX_CHECKS_IN_FLIGHT) {
      return show(response, 503, { name, next, problem: 'Too many people log in. Try again in some seconds.' });
    }
    checks++;
    try {
      const outcome = await openSession(name, given);
      if ('problem' in outcome) {
        logger?.warn({ address: request.ip }, 'console login failed'); // the limits bound the number of lines
        await record(request, { actor: outcome.actor, action: 'login failed' }, { isRequired: false });
        return show(response, 401, { name, next, problem: outcome.problem });
      }
      for (const [attempts, key] of keys) attempts.takeBack(key);
      await record(request, { actor: name, action: 'login' });
      await sessions.end(request);
      sessions.setCookie(request, response, outcome.token);
      response.redirect(303, toLocalPath(next));
    } catch (error) {
      if (failureKindOf(error) === 'unknown') throw error;
      logger?.warn({ err: error }, 'console login failed because of PostgreSQL');
      show(response, 503, { name, next, problem: 'PostgreSQL does not answer. Try again later.' });
    } finally {
      checks--;
    }
  }

  async function openSession(
    name: string,
    given: string,
  ): Promise<{ token: string } | { problem: string; actor: string }> {
    const { token, tokenHash } = sessions.draw();
    if (name === BUILT_IN_OPERATOR.name) {
      if (!isEqual(given, password)) return { problem: WRONG, actor: name };
      const isOpen = await store.operators.logInBuiltIn(tokenHash);
      return isOpen
        ? { token }
        : { problem: 'CONSOLE_PASSWORD is not accepted any more: use your own name.', actor: name };
    }
    if (await store.operators.logIn({ name, password: given, tokenHash })) return { token };
    return { problem: WRONG, actor: (await store.operators.find(name)) ? name : UNKNOWN_ACTOR };
  }

  return Router()
    .get('/login', (request, response) => {
      show(response, 200, { name: '', next: String(request.query.next ?? '') });
    })
    .post('/login', parseForm, logIn);
}

type FormFields = [name: string, password: string, next: string];

const WRONG = 'Wrong name or password.';
const MAX_NAME_LENGTH = 64;

function readField(request: Request, field: string): string {
  const value: unknown = request.body?.[field];
  return typeof value === 'string' ? value : '';
}

/** Parses forms, checks their token, and ends the session on POST /logout. Other pages' forms are mounted after it. */
export function createFormRoutes({ sessions, record }: Access): Router {
  return Router()
    .use(parseForm, requireFormToken)
    .post('/logout', async (request, response) => {
      await sessions.end(request);
      sessions.clearCookie(request, response);
      await record(request, { actor: operatorOf(response).name, action: 'logout' }, { isRequired: false });
      response.redirect(303, '/login');
    });
}

/** @returns the path if it is one of this console; otherwise / */
export function toLocalPath(next: string): string {
  const here = 'http://console';
  if (!next.startsWith('/') || !URL.canParse(next, here)) return '/';
  const { origin, pathname, search } = new URL(next, here);
  return origin === here && !pathname.startsWith('//') ? `${pathname}${search}` : '/';
}

/** The hidden field that every form needs. */
export function FormToken({ operator }: { operator: CurrentOperator }) {
  return <input type="hidden" name={CSRF_FIELD} value={operator.csrfToken} />;
}

type LoginProps = { name: string; next: string; problem?: string };

function show(response: Response, status: number, props: LoginProps): void {
  response.status(status).set('cache-control', 'no-store').type('html');
  response.send(`<!doctype html>${render(<LoginPage {...props} />)}`);
}

const STYLE = `
  body { font: 16px/1.5 system-ui, sans-serif; display: grid; place-items: center; min-height: 90vh; color: #1b1f24 }
  form { display: grid; gap: .5rem; width: 18rem }
  input, button { font: inherit; padding: .4rem .6rem }
  button { margin-top: .5rem }
  [role=alert] { color: #a40e26 }`;

function LoginPage({ name, next, problem }: LoginProps) {
  return (
    <html lang="en">
      <head>
        <meta charSet="utf-8" />
        <meta name="viewport" content="width=device-width" />
        <link rel="icon" href="data:," />
        <title>Log in – OPM Partners API</title>
        <style>{STYLE}</style>
      </head>
      <body>
        <main>
          <h1>OPM Partners API</h1>
          <form method="post" action="/login">
            {problem && <p role="alert">{problem}</p>}
            <label for="name">Name</label>
            <input id="name" name="name" value={name} autocomplete="username" required autofocus />
            <label for="password">Password</label>
            <input id="password" name="password" type="password" autocomplete="current-password" required />
            <input type="hidden" name="next" value={next} />
            <button type="submit">Log in</button>
          </form>
        </main>
      </body>
    </html>
  );
}
