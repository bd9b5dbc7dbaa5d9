import { randomBytes } from 'node:crypto';
import { assertOperatorName, type Operator, ROLES, type Role, type Store, type StoredOperator } from '@opm/store';
import { type Request, type RequestHandler, type Response, Router } from 'express';
import type { Reads } from '../reads.js';
import { type CurrentOperator, mayChange, operatorOf } from '../session.js';
import { assertConfirmed, fieldOf, type HandleChange, Problem } from './change.js';
import { Confirm, Form, Secret, sendPage, Table, Time, textOf } from './components.js';

const MAX_AUDIT_ROWS = 200;

/** GET /audit: the newest rows of the audit log, of all actors or one. */
export function getAudit(reads: Pick<Reads, 'audit'>): RequestHandler {
  return async (request, response) => {
    const actor = textOf(request, 'actor');
    const rows = await reads.audit({ actor }, { limit: MAX_AUDIT_ROWS });
    sendPage(request, response, {
      title: 'Audit',
      children: (
        <>
          <form method="get" action="/audit">
            <label>
              Who <input name="actor" value={actor ?? ''} />
            </label>
            <button type="submit">Filter</button>
          </form>
          <Table
            caption={`The newest changes and logins, at most ${MAX_AUDIT_ROWS}`}
            rows={rows}
            empty="Nothing is recorded."
            columns={[
              { title: 'When', cell: ({ at }) => <Time at={at} /> },
              { title: 'Who', cell: ({ actor: who }) => who },
              { title: 'What', cell: ({ action }) => action },
              { title: 'Of what', cell: ({ target }) => target ?? '–' },
              { title: 'Details', cell: ({ details }) => (details ? <code>{JSON.stringify(details)}</code> : '–') },
              { title: 'From', cell: ({ source, address }) => `${source}${address ? `, ${address}` : ''}` },
            ]}
          />
        </>
      ),
    });
  };
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
            caption="Operators"
            rows={operators}
            empty="Nobody yet."
            columns={[
              { title: 'Name', cell: ({ name }) => name },
              { title: 'Role', cell: ({ role }) => role },
              { title: 'May see what partners sent', cell: ({ mayReveal }) => (mayReveal ? 'yes' : 'no') },
              { title: 'Since', cell: ({ createdAt }) => <Time at={createdAt} /> },
            ]}
          />
          <p>CONSOLE_PASSWORD opens the console as admin until an operator here is an admin.</p>
          {mayChange(operator, 'admin') && <OperatorForms operators={operators} operator={operator} />}
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

/** Only who may see what partners sent may allow it. @param changed undefined for a new operator */
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
        <button type="submit">Set the role</button>
      </Form>
      <Form action={`/operators/${name}/password`} operator={operator}>
        <Confirm>{`Replace the password of ${name} by a new one.`}</Confirm>
        <button type="submit">New password</button>
      </Form>
      <Form action={`/operators/${name}/remove`} operator={operator}>
        <Confirm>{`Remove ${name}.`}</Confirm>
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
    if (!found) throw new Problem('there is no such operator');
    return found;
  }
  /** Otherwise admins could give it to themselves by a second name, or by the password of another operator. */
  function assertMayReveal(response: Response): void {
    if (operatorOf(response).mayReveal) return;
    throw new Problem('this needs the right to see what partners sent; `opm operators` does it too');
  }
  const toPage = (title: string, name: string, password: string) => {
    const children = <Secret name={`Password of ${name}`} value={password} back="/operators" />;
    return { title, children };
  };

  const router = Router();
  router.post(
    '/operators',
    handle('admin', 'operators add', async (request, response) => {
      const [name, role, mayReveal] = [fieldOf(request, 'name'), roleOf(request), fieldOf(request, 'reveal') !== ''];
      assertOperatorName(name); // before the audit log names it
      if (mayReveal) assertMayReveal(response);
      const password = drawPassword();
      return {
        ...{ target: name, details: { role, mayReveal }, back: '/operators' },
        async run() {
          await operators.add({ name, role, mayReveal, password });
          return toPage(`Added ${name}`, name, password);
        },
      };
    }),
  );
  router.post(
    '/operators/:name/role',
    handle('admin', 'operators role', async (request, response) => {
      const [found, role, mayReveal] = [await find(request), roleOf(request), fieldOf(request, 'reveal') !== ''];
      const { name } = found;
      if (mayReveal && !found.mayReveal) assertMayReveal(response);
      return {
        ...{ target: name, details: { role, mayReveal }, back: '/operators' },
        async run() {
          assertFound(await operators.setRole(name, { role, mayReveal }, { keepsAdmin: true }));
          return `${name} has the role ${role} and ${mayReveal ? 'may' : 'may not'} see what partners sent.`;
        },
      };
    }),
  );
  router.post(
    '/operators/:name/password',
    handle('admin', 'operators password', async (request, response) => {
      const { name, mayReveal } = await find(request);
      assertConfirmed(request);
      if (mayReveal) assertMayReveal(response);
      const password = drawPassword();
      return {
        ...{ target: name, back: '/operators' },
        async run() {
          assertFound(await operators.setPassword(name, password));
          return toPage(`New password of ${name}`, name, password);
        },
      };
    }),
  );
  router.post(
    '/operators/:name/remove',
    handle('admin', 'operators remove', async (request) => {
      const { name } = await find(request);
      assertConfirmed(request);
      return {
        ...{ target: name, back: '/operators' },
        async run() {
          assertFound(await operators.remove(name, { keepsAdmin: true }));
          return `${name} was removed.`;
        },
      };
    }),
  );
  return router;
}

const drawPassword = (): string => randomBytes(15).toString('base64url');

/** Another request may have removed the operator. @throws Problem */
function assertFound(isFound: boolean): void {
  if (!isFound) throw new Problem('there is no such operator');
}

function roleOf(request: Request): Role {
  const role = ROLES.find((known) => known === fieldOf(request, 'role'));
  if (!role) throw new Problem(`role must be one of ${ROLES.join(', ')}`);
  return role;
}
