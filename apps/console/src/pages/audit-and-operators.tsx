import { toCount, toNumber } from '@opm/operations';
import {
  type AuditOutcome,
  assertOperatorName,
  generatePassword,
  type Operator,
  ROLES,
  type Role,
  type Store,
  type StoredOperator,
} from '@opm/store';
import { type Request, type RequestHandler, type Response, Router } from 'express';
import type { Reads } from '../reads.js';
import { type CurrentOperator, mayChange, operatorOf } from '../session.js';
import { assertConfirmed, FormError, fieldOf, type HandleChange } from './change.js';
import { beforeOf, Confirm, Form, Secret, sendPage, Table, Time, textOf, toUrl } from './components.js';

const MAX_AUDIT_ROWS = 200;

/** GET /audit: the audit log, newest rows first, for all actors or one, and for all targets or one partner. */
export function getAudit(reads: Pick<Reads, 'audit'>): RequestHandler {
  return async (request, response) => {
    const [actor, target] = [textOf(request, 'actor'), textOf(request, 'target')];
    const beforeId = beforeOf(request);
    const rows = await reads.audit({ actor, target }, { limit: MAX_AUDIT_ROWS, beforeId });
    const mayHaveOlder = rows.length === MAX_AUDIT_ROWS;
    sendPage(request, response, {
      title: 'Audit',
      children: (
        <>
          <form method="get" action="/audit">
            <label>
              Who <input name="actor" value={actor ?? ''} />
            </label>
            <label>
              Partner or operator <input name="target" value={target ?? ''} />
            </label>
            <button type="submit">Filter</button>
          </form>
          <Table
            caption={beforeId === undefined ? 'The newest changes and logins' : 'Older changes and logins'}
            rows={rows}
            empty={beforeId === undefined ? 'Nothing is recorded.' : 'Nothing older is recorded.'}
            columns={[
              { title: 'When', cell: ({ at }) => <Time at={at} /> },
              { title: 'Who', cell: ({ actor: who }) => who },
              { title: 'What', cell: ({ action }) => action.replace(/^projects\b/, 'partners') },
              { title: 'Of what', cell: ({ target: what }) => what ?? '–' },
              { title: 'Outcome', cell: ({ outcome }) => (outcome ? <strong>{OUTCOMES[outcome]}</strong> : '–') },
              { title: 'Details', cell: ({ details }) => toDetails(details) || '–' },
              { title: 'From', cell: ({ source, address }) => `${source}${address ? `, ${address}` : ''}` },
            ]}
          />
          {mayHaveOlder && <a href={toUrl('/audit', { actor, target, before: rows.at(-1)?.auditId })}>Older</a>}
        </>
      ),
    });
  };
}

const OUTCOMES: Record<AuditOutcome, string> = { 'not done': 'not done', failed: 'failed; maybe done in part' };

type Detail = string | number | boolean;

/** Words for details; nothing for an empty text. */
const DETAILS = new Map<string, (value: Detail) => string>([
  ['keyId', (id) => `key ${id}`],
  ['label', (label) => `label “${label}”`],
  ['graceHours', (hours) => `other keys end in ${hours} h`],
  ['scopes', (scopes) => `may ${scopes}`],
  ['addresses', (addresses) => `from ${addresses}`],
  ['rate', (rate) => `${toCount(Number(rate), 'entry')}/s`],
  ['burst', (burst) => `burst ${toNumber(Number(burst))}`],
  ['none', () => 'no limit'],
  ['letters', (count) => toCount(Number(count), 'dead letter')],
  ['id', (id) => `dead letter ${id}`],
  ['sqlState', (state) => `SQLSTATE ${state}`],
  ['byError', (isGiven) => (isGiven ? 'chosen by the text of the error' : '')],
  ['mayReveal', (may) => `${may ? 'may' : 'may not'} see what partners sent`],
  ['newName', (name) => `new name “${name}”`],
  ['bytes', (bytes) => `${toNumber(Number(bytes))} bytes`],
]);

/** `{ rate: 20, burst: 40, note: null }` → `20 entries/s, burst 40`. */
function toDetails(details: unknown): string {
  const given = Object.entries((details ?? {}) as Record<string, Detail | null>);
  const texts = given.map(([name, value]) => {
    if (value === null) return '';
    return DETAILS.get(name)?.(value) ?? `${name} ${value}`;
  });
  return texts.filter((text) => text !== '').join(', ');
}

/** GET /operators: who may log in. */
export function getOperators(reads: Pick<Reads, 'operators'>): RequestHandler {
  return async (request, response) => {
    const operator = operatorOf(response);
    const operators = await reads.operators();
    sendPage(request, response, {
      title: 'Operators',
      children: (
        <>
          <Table
            caption={toCount(operators.length, 'operator')}
            rows={operators}
            empty="Nobody yet."
            columns={[
              { title: 'Name', cell: ({ name }) => name },
              { title: 'Role', cell: ({ role }) => role },
              { title: 'May see what partners sent', cell: ({ mayReveal }) => (mayReveal ? 'yes' : 'no') },
              { title: 'Since', cell: ({ createdAt }) => <Time at={createdAt} /> },
            ]}
          />
          <p>
            {operators.some(({ role }) => role === 'admin')
              ? 'CONSOLE_PASSWORD is not accepted, because an operator is an admin.'
              : 'Whoever has CONSOLE_PASSWORD can log in as admin, as long as no operator is an admin.'}
          </p>
          {!operator.mayReveal && (
            <p>
              You may not see what partners sent, so you cannot allow it to others. On the host of the console,{' '}
              <code>opm operators role NAME ROLE --reveal</code> allows it.
            </p>
          )}
          {mayChange(operator, 'operators add', 'operators role', 'operators password', 'operators remove') && (
            <OperatorForms operators={operators} operator={operator} />
          )}
        </>
      ),
    });
  };
}

function OperatorForms({ operators, operator }: { operators: StoredOperator[]; operator: CurrentOperator }) {
  return (
    <>
      {operators.map((changed) => (
        <ChangeForms key={changed.name} changed={changed} operator={operator} />
      ))}
      <h2>New operator</h2>
      <Form action="/operators" operator={operator}>
        <label>
          Name <input name="name" required maxLength={64} />
        </label>
        <RoleFields operator={operator} />
        <button type="submit">Add</button>
      </Form>
    </>
  );
}

/**
 * The fields for a role. Only operators with the reveal right may give it. @param changed undefined for a new operator
 */
function RoleFields({ changed, operator }: { changed?: StoredOperator; operator: CurrentOperator }) {
  return (
    <>
      <label>
        Role
        <select name="role">
          {ROLES.map((role) => (
            <option key={role} value={role} selected={role === changed?.role}>
              {role}
            </option>
          ))}
        </select>
      </label>
      {(operator.mayReveal || changed?.mayReveal) && (
        <label class="confirm">
          <input type="checkbox" name="reveal" checked={changed?.mayReveal} />
          May see what partners sent
        </label>
      )}
    </>
  );
}

function ChangeForms({ changed, operator }: { changed: StoredOperator; operator: CurrentOperator }) {
  const { name } = changed;
  return (
    <details>
      <summary>Change {name}</summary>
      <p>Each change ends the sessions of {name}.</p>
      <Form action={`/operators/${name}/role`} operator={operator}>
        <RoleFields changed={changed} operator={operator} />
        <button type="submit">Set role</button>
      </Form>
      <Form action={`/operators/${name}/password`} operator={operator}>
        <Confirm>{`Give ${name} a new password. The old one is no longer accepted.`}</Confirm>
        <button type="submit">New password</button>
      </Form>
      <Form action={`/operators/${name}/remove`} operator={operator}>
        <Confirm>{`Remove ${name}, who can then no longer log in.`}</Confirm>
        <button type="submit">Remove</button>
      </Form>
    </details>
  );
}

/** The forms of the operators' page. */
export function changeOperators({ operators }: Pick<Store, 'operators'>, handle: HandleChange): Router {
  async function find(request: Request): Promise<Operator> {
    const { name } = request.params;
    const found = await operators.find(String(name));
    if (!found) throw new FormError('there is no such operator');
    return found;
  }
  /** Otherwise admins could give themselves the right with a second name or another operator's password. */
  function assertMayReveal(response: Response): void {
    if (operatorOf(response).mayReveal) return;
    throw new FormError('this needs the right to see what partners sent; `opm operators` does it too');
  }
  const toPage = (title: string, name: string, password: string) => {
    const children = <Secret name={`Password of ${name}`} value={password} back="/operators" />;
    return { title, children };
  };

  const router = Router();
  router.post(
    '/operators',
    handle('operators add', async (request, response) => {
      const [name, role, mayReveal] = [fieldOf(request, 'name'), roleOf(request), fieldOf(request, 'reveal') !== ''];
      assertOperatorName(name); // before the audit log names it
      if (mayReveal) assertMayReveal(response);
      const password = generatePassword();
      return {
        target: name,
        details: { role, mayReveal },
        back: '/operators',
        async run() {
          await operators.add({ name, role, mayReveal, password });
          return toPage(`Added ${name} (${role})`, name, password);
        },
      };
    }),
  );
  router.post(
    '/operators/:name/role',
    handle('operators role', async (request, response) => {
      const [found, role, mayReveal] = [await find(request), roleOf(request), fieldOf(request, 'reveal') !== ''];
      const { name } = found;
      if (mayReveal && !found.mayReveal) assertMayReveal(response);
      return {
        target: name,
        details: { role, mayReveal },
        back: '/operators',
        async run() {
          const options = { keepsAdmin: true, mayGrant: operatorOf(response).mayReveal };
          assertFound(await operators.setRole(name, { role, mayReveal }, options));
          return `${name} has the role ${role} and ${mayReveal ? 'may' : 'may not'} see what partners sent.`;
        },
      };
    }),
  );
  router.post(
    '/operators/:name/password',
    handle('operators password', async (request, response) => {
      const { name, mayReveal } = await find(request);
      assertConfirmed(request);
      if (mayReveal) assertMayReveal(response);
      const password = generatePassword();
      return {
        target: name,
        back: '/operators',
        async run() {
          assertFound(await operators.setPassword(name, password, { mayGrant: operatorOf(response).mayReveal }));
          return toPage(`New password of ${name}`, name, password);
        },
      };
    }),
  );
  router.post(
    '/operators/:name/remove',
    handle('operators remove', async (request) => {
      const { name } = await find(request);
      assertConfirmed(request);
      return {
        target: name,
        back: '/operators',
        async run() {
          assertFound(await operators.remove(name, { keepsAdmin: true }));
          return `${name} was removed.`;
        },
      };
    }),
  );
  return router;
}

/** @throws FormError */
function assertFound(isFound: boolean): void {
  if (!isFound) throw new FormError('another request changed or removed this operator meanwhile');
}

function roleOf(request: Request): Role {
  const role = ROLES.find((known) => known === fieldOf(request, 'role'));
  if (!role) throw new FormError(`role must be one of ${ROLES.join(', ')}`);
  return role;
}
