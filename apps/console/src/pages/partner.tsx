import { isKeyLabel, SCOPES, toRuleTexts } from '@opm/core';
import { assertProjectName, type Store, type StoredApiKey } from '@opm/store';
import { type Request, type RequestHandler, Router } from 'express';
import type { Partner, Reads } from '../reads.js';
import { type CurrentOperator, mayChange, operatorOf } from '../session.js';
import {
  assertConfirmed,
  countOf,
  FormError,
  fieldOf,
  type HandleChange,
  MAX_RULES,
  notePartner,
  rulesOf,
} from './change.js';
import { Confirm, Form, Hint, Live, Secret, sendPage, Table, Time, toUrl } from './components.js';
import { DeadLetterGroups } from './dead-letters.js';
import { EntriesChart, Problems } from './overview.js';
import { PartnerFacts } from './partners.js';

const PROJECT_ID = /^[1-9]\d{0,8}$/;

/** GET /partners/{projectId}: one partner, its chart, its keys and its dead letters. */
export function getPartner(
  reads: Pick<Reads, 'partner' | 'minutesOf' | 'keys' | 'deadLetters'>,
): RequestHandler<{ projectId: string }> {
  return async (request, response, next) => {
    const { projectId: given } = request.params;
    const partner = PROJECT_ID.test(given) ? await reads.partner(Number(given)) : undefined;
    if (!partner) return next();
    const { projectId, name, problems, pausedAt } = partner;
    const operator = operatorOf(response);
    const [chart, keys, { groups }] = await Promise.all([
      reads.minutesOf(projectId),
      reads.keys(projectId),
      reads.deadLetters({ projectId }, undefined),
    ]);
    sendPage(request, response, {
      title: name,
      children: (
        <>
          <Live id="partner">
            {pausedAt && (
              <p>
                <strong>
                  Paused since <Time at={pausedAt} />.
                </strong>
              </p>
            )}
            {(problems.length > 0 || !pausedAt) && <Problems problems={problems} projectId={projectId} />}
            <KeyWarning keys={keys} />
            <PartnerFacts partner={partner} minutes={chart.minutes} />
            <EntriesChart {...chart} />
          </Live>
          <Keys keys={keys} partner={partner} operator={operator} />
          <DeadLetterGroups groups={groups} nameOf={new Map([[projectId, name]])} />
          <p>
            <a href={toUrl('/find', { project: name })}>Find a customer of this partner</a>
          </p>
          {mayChange(operator, 'projects pause', 'projects resume', 'projects limits') && (
            <Settings partner={partner} operator={operator} />
          )}
        </>
      ),
    });
  };
}

const activeOf = (keys: StoredApiKey[]) => keys.filter(({ status }) => status === 'active');

/** Says that no key is valid, or when the last one ends. */
function KeyWarning({ keys }: { keys: StoredApiKey[] }) {
  const active = activeOf(keys);
  if (active.length === 0) return <p role="alert">No key is valid: all requests get 401. An admin can create one.</p>;
  const lastEnd = Math.max(...active.map(({ expiresAt }) => expiresAt?.getTime() ?? Number.POSITIVE_INFINITY));
  if (lastEnd === Number.POSITIVE_INFINITY) return null;
  return (
    <p role="alert">
      No key is valid after <Time at={new Date(lastEnd)} />: all requests get 401 then. An admin can create one.
    </p>
  );
}

type Shown = { partner: Partner; operator: CurrentOperator };

function Keys({ keys, partner: { projectId, name }, operator }: Shown & { keys: StoredApiKey[] }) {
  const path = `/partners/${projectId}/keys`;
  const active = activeOf(keys);
  const newest = active.at(-1);
  return (
    <>
      <Table
        caption="API keys"
        rows={keys}
        empty="This partner has no key."
        columns={[
          { title: 'Key', cell: ({ hint }) => <code>{`${hint}…`}</code> },
          { title: 'Id', isNumber: true, cell: ({ keyId }) => keyId },
          { title: 'Label', cell: ({ label }) => label ?? '–' },
          { title: 'May', cell: ({ scopes }) => scopes.join(', ') },
          { title: 'From', cell: ({ addresses }) => addresses.join(', ') || 'any address' },
          { title: 'Status', cell: ({ status }) => status },
          { title: 'Created', cell: ({ createdAt }) => <Time at={createdAt} /> },
          { title: 'Ends', cell: ({ expiresAt, revokedAt }) => <Time at={revokedAt ?? expiresAt} /> },
          { title: 'Last use', cell: ({ lastUsedAt }) => <Time at={lastUsedAt} /> },
        ]}
      />
      {mayChange(operator, 'keys rotate', 'keys revoke') && (
        <details>
          <summary>Create or revoke keys</summary>
          <Form action={path} operator={operator}>
            <label>
              Label <input name="label" maxLength={100} />
            </label>
            <fieldset>
              <legend>May</legend>
              {SCOPES.map((scope) => (
                <label key={scope} class="confirm">
                  <input type="checkbox" name={scope} checked={newest?.scopes.includes(scope) ?? true} />
                  {scope}
                </label>
              ))}
            </fieldset>
            <label>
              From <input name="addresses" maxLength={MAX_RULES} value={newest?.addresses.join(', ')} />
            </label>
            <label>
              The other keys
              <select name="grace">
                {GRACES.map(([hours, text]) => (
                  <option key={hours} value={hours}>
                    {text}
                  </option>
                ))}
              </select>
            </label>
            <button type="submit">Create key</button>
            <Hint>
              “From” takes IP addresses and blocks such as 203.0.113.0/24. If it is empty, the key works from anywhere.
            </Hint>
          </Form>
          {active.map(({ keyId, hint, label }) => (
            <Form key={keyId} action={`${path}/${keyId}/revoke`} operator={operator}>
              <Confirm>
                {`Revoke ${label === null ? '' : `“${label}”, `}${hint}…, of ${name} now. Requests with it get 401.`}
              </Confirm>
              <button type="submit">Revoke</button>
            </Form>
          ))}
        </details>
      )}
    </>
  );
}

const GRACES = [
  ['', 'stay valid'],
  ['1', 'end in an hour'],
  ['24', 'end in a day'],
  ['168', 'end in a week'],
] as const;

function Settings({ partner: { projectId, name, pausedAt, rate, burst }, operator }: Shown) {
  const path = `/partners/${projectId}`;
  return (
    <section aria-labelledby="settings">
      <h2 id="settings">Change</h2>
      <Form action={`${path}/${pausedAt ? 'resume' : 'pause'}`} operator={operator}>
        {!pausedAt && <Confirm>{`Pause ${name}. All its requests get 403 until it is resumed.`}</Confirm>}
        <button type="submit">{pausedAt ? 'Resume' : 'Pause'}</button>
      </Form>
      <Form action={`${path}/limit`} operator={operator}>
        <label>
          Entries per second <input name="rate" inputMode="numeric" value={rate ?? ''} />
        </label>
        <label>
          Burst <input name="burst" inputMode="numeric" value={burst ?? ''} />
        </label>
        <button type="submit">Set limit</button>
        <Hint>Leave both fields empty for no limit.</Hint>
      </Form>
    </section>
  );
}

const HOUR_MS = 3_600_000;

/** The forms of the partners' pages. */
export function changePartners(
  { projects, apiKeys }: Pick<Store, 'projects' | 'apiKeys'>,
  handle: HandleChange,
): Router {
  async function find(request: Request): Promise<{ projectId: number; target: string; back: string }> {
    const { projectId: given = '' } = request.params;
    const projectId = Number(given);
    const target = PROJECT_ID.test(String(given)) ? (await projects.names([projectId])).get(projectId) : undefined;
    if (target === undefined) throw new FormError('there is no such partner');
    notePartner(request, target);
    return { projectId, target, back: `/partners/${projectId}` };
  }
  const setPaused = (isPaused: boolean) => async (request: Request) => {
    const { projectId, ...found } = await find(request);
    if (isPaused) assertConfirmed(request);
    return {
      ...found,
      async run() {
        await projects.setPaused(projectId, isPaused);
        return `${found.target} is ${isPaused ? 'paused' : 'resumed'}.`;
      },
    };
  };

  const router = Router();
  router.post(
    '/partners',
    handle('projects create', async (request) => {
      const name = fieldOf(request, 'name');
      assertProjectName(name); // before the audit log names it
      return {
        target: name,
        back: '/partners',
        async run() {
          const { projectId, apiKey } = await projects.create(name);
          const back = `/partners/${projectId}`;
          return { title: `Created ${name}`, children: <Secret name="API key" value={apiKey} back={back} /> };
        },
      };
    }),
  );
  router.post('/partners/:projectId/pause', handle('projects pause', setPaused(true)));
  router.post('/partners/:projectId/resume', handle('projects resume', setPaused(false)));
  router.post(
    '/partners/:projectId/limit',
    handle('projects limits', async (request) => {
      const { projectId, ...found } = await find(request);
      const [rate, burst] = [countOf(request, 'rate'), countOf(request, 'burst')];
      if ((rate === undefined) !== (burst === undefined))
        throw new FormError('give both entries per second and burst, or neither');
      const limit = rate === undefined || burst === undefined ? undefined : { rate, burst };
      return {
        ...found,
        details: limit ?? { none: true },
        async run() {
          await projects.setLimit(projectId, limit);
          return limit ? `The limit of ${found.target} was set.` : `${found.target} has no limit any more.`;
        },
      };
    }),
  );
  router.post(
    '/partners/:projectId/keys',
    handle('keys rotate', async (request) => {
      const { projectId, ...found } = await find(request);
      const [label, grace] = [fieldOf(request, 'label') || undefined, countOf(request, 'grace')];
      if (!GRACES.some(([hours]) => hours === String(grace ?? '')))
        throw new FormError('grace must be one of the choices');
      if (label !== undefined && !isKeyLabel(label)) throw new FormError('a label must have at most 100 characters');
      const rules = rulesOf(request);
      return {
        ...found,
        details: { label: label ?? null, graceHours: grace ?? null, ...toRuleTexts(rules) },
        ...(grace === undefined && { action: 'keys create' }),
        async run() {
          const graceMs = grace === undefined ? undefined : grace * HOUR_MS;
          const apiKey =
            graceMs === undefined
              ? await apiKeys.issue(projectId, { label, ...rules })
              : (await apiKeys.rotate(projectId, { graceMs, label, ...rules })).apiKey;
          const children = <Secret name={label ?? 'API key'} value={apiKey} back={found.back} />;
          return { title: `New key of ${found.target}`, children };
        },
      };
    }),
  );
  router.post(
    '/partners/:projectId/keys/:keyId/revoke',
    handle('keys revoke', async (request) => {
      const { projectId, ...found } = await find(request);
      assertConfirmed(request);
      const keyId = Number(request.params.keyId);
      const key = (await apiKeys.list(projectId)).find((listed) => listed.keyId === keyId);
      if (key?.status !== 'active') throw new FormError(`${found.target} has no such active key`);
      return {
        ...found,
        details: { keyId },
        async run() {
          await apiKeys.revoke(projectId, { keyId });
          return `Key “${key.label ?? `${key.hint}…`}” was revoked.`;
        },
      };
    }),
  );
  return router;
}
