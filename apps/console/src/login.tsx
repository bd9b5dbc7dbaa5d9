import { BUILT_IN_OPERATOR, failureKindOf } from '@opm/store';
import { type Request, type Response, Router } from 'express';
import { type Access, addressOf, UNKNOWN_ACTOR } from './guard.js';
import { sendPage } from './pages/components.js';
import { isEqual, operatorOf, parseForm, requireFormToken } from './session.js';

/** Each check of a stored operator's password takes 0.4 s of one core, one after the other. */
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
    const isSlow = name !== BUILT_IN_OPERATOR.name;
    if (isSlow && checks >= MAX_CHECKS_IN_FLIGHT)
      return show(response, 503, { name, next, problem: 'Too many people log in. Try again in some seconds.' });
    // Counted before the check, so that requests at the same time cannot pass the limits.
    for (const [attempts, key] of keys) attempts.count(key);
    const takeBack = () => {
      for (const [attempts, key] of keys) attempts.takeBack(key);
    };
    if (isSlow) checks++;
    try {
      const outcome = await openSession(name, given);
      if ('problem' in outcome) {
        logger?.warn({ address: request.ip }, 'console login failed'); // the limits bound the number of lines
        await record(request, { actor: outcome.actor, action: 'login failed' }, { isRequired: false });
        return show(response, 401, { name, next, problem: outcome.problem });
      }
      await record(request, { actor: name, action: 'login' });
      await sessions.end(request);
      takeBack();
      sessions.setCookie(request, response, outcome.token);
      response.redirect(303, toLocalPath(next));
    } catch (error) {
      if (failureKindOf(error) === 'unknown') throw error;
      takeBack();
      logger?.warn({ err: error }, 'console login failed because of PostgreSQL');
      show(response, 503, { name, next, problem: 'PostgreSQL does not answer. Try again later.' });
    } finally {
      if (isSlow) checks--;
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
      sessions.clearCookie(request, response);
      await sessions.end(request);
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

type LoginProps = { name: string; next: string; problem?: string };

const show = (response: Response, status: number, props: LoginProps): void =>
  sendPage(response.req, response, { title: 'Log in', children: <LoginForm {...props} /> }, status);

function LoginForm({ name, next, problem }: LoginProps) {
  return (
    <form method="post" action="/login" class="login">
      {problem && <p role="alert">{problem}</p>}
      <label>
        Name <input name="name" value={name} autocomplete="username" required />
      </label>
      <label>
        Password <input name="password" type="password" autocomplete="current-password" required />
      </label>
      <input type="hidden" name="next" value={next} />
      <button type="submit">Log in</button>
    </form>
  );
}
