import { randomBytes } from 'node:crypto';
import { assertOperatorName, ROLES, type Role, type Store, type StoredOperator } from '@opm/store';
import { type Request, type RequestHandler, Router } from 'express';
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
          <p>
            <code>opm operators</code> changes roles and passwords. CONSOLE_PASSWORD opens the console as admin until an
            operator here is an admin.
          </p>
          {mayChange(operator, 'admin') && <OperatorForms operators={operators} operator={operator} />}
        </>
      ),
    });
  };
}

function OperatorForms({ operators, operator }: { operators: StoredOperator[]; operator: CurrentOperator }) {
  return (
    <>
      <h2>New operator</h2>
      <Form action="/operators" operator={operator}>
        <label>
          Name <input name="name" required maxLength={64} />
        </label>
        <label>
          Role
          <select name="role">
            {ROLES.map((role) => (
              <option key={role} value={role}>
                {role}
              </option>
            ))}
          </select>
        </label>
        {operator.mayReveal && (
          <label class="confirm">
            <input type="checkbox" name="reveal" />
            May see what partners sent
          </label>
        )}
        <button type="submit">Add</button>
      </Form>
      {operators.length > 0 && <h2>Remove</h2>}
      {operators.map(({ name }) => (
        <Form key={name} action="/operators/remove" operator={operator}>
          <input type="hidden" name="name" value={name} />
          <Confirm>{`Remove ${name} and end the sessions of ${name}.`}</Confirm>
          <button type="submit">Remove</button>
        </Form>
      ))}
    </>
  );
}

/** The forms of the operators' page. */
export function changeOperators({ operators }: Pick<Store, 'operators'>, handle: HandleChange): Router {
  const router = Router();
  router.post(
    '/operators',
    handle('admin', 'operators add', async (request, response) => {
      const [name, role, mayReveal] = [fieldOf(request, 'name'), roleOf(request), fieldOf(request, 'reveal') !== ''];
      assertOperatorName(name); // before the audit log names it
      // Otherwise an admin could give it to themselves by a second name.
      if (mayReveal && !operatorOf(response).mayReveal) {
        throw new Problem('only who may see what partners sent may allow it; `opm operators` does too');
      }
      const password = randomBytes(15).toString('base64url');
      return {
        ...{ target: name, details: { role, mayReveal }, back: '/operators' },
        async run() {
          await operators.add({ name, role, mayReveal, password });
          return {
            title: `Added ${name}`,
            children: <Secret name={`Password of ${name}`} value={password} back="/operators" />,
          };
        },
      };
    }),
  );
  router.post(
    '/operators/remove',
    handle('admin', 'operators remove', async (request) => {
      const name = fieldOf(request, 'name');
      assertConfirmed(request);
      if (!(await operators.find(name))) throw new Problem(`there is no operator ${name}`);
      return {
        ...{ target: name, back: '/operators' },
        async run() {
          await operators.remove(name);
        },
      };
    }),
  );
  return router;
}

function roleOf(request: Request): Role {
  const role = ROLES.find((known) => known === fieldOf(request, 'role'));
  if (!role) throw new Problem(`role must be one of ${ROLES.join(', ')}`);
  return role;
}
