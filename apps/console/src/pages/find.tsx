import { Fault, parseCustomerId } from '@opm/contract';
import { FIELDS, toDate } from '@opm/core';
import { eraseCustomer } from '@opm/operations/actions';
import type { Claim, EntryQueue } from '@opm/queue';
import { type CustomerHistory, type Store, toCustomerTarget } from '@opm/store';
import { type RequestHandler, Router } from 'express';
import type { ComponentChildren } from 'preact';
import { MASK } from '../mask.js';
import type { Reads } from '../reads.js';
import { type CurrentOperator, mayChange, operatorOf } from '../session.js';
import { assertConfirmed, FormError, type HandleChange, toSentence } from './change.js';
import { Confirm, Facts, Form, sendPage, Table, Time, textOf, toUrl } from './components.js';
import { LetterTable } from './dead-letters.js';
import { type RecordView, RevealForm, type Reveals } from './reveal.js';

/** GET /find: a customer by project and id, with the time of each field, what is in flight and its dead letters. */
export function getFind(
  reads: Pick<Reads, 'findProject' | 'customer'>,
  reveals: Reveals,
  recordView: RecordView,
): RequestHandler {
  return async (request, response) => {
    const [projectName, customerId] = [textOf(request, 'project'), textOf(request, 'customer')];
    const project = projectName === undefined ? undefined : await reads.findProject(projectName);
    const found = project && customerId !== undefined ? await reads.customer(project.projectId, customerId) : undefined;
    const operator = operatorOf(response);
    const showData = reveals.isOn(response);
    if (found && project) await recordView(request, response, toCustomerTarget(project.name, customerId ?? ''));
    const isUnknown = projectName !== undefined && !project;
    sendPage(request, response, {
      title: 'Find a customer',
      children: (
        <>
          <form method="get" action="/find">
            <label>
              Partner <input name="project" value={projectName ?? ''} required />
            </label>
            <label>
              Customer id <input name="customer" value={customerId ?? ''} required />
            </label>
            <button type="submit">Find</button>
          </form>
          {isUnknown && <p class="empty">{`There is no partner "${projectName}".`}</p>}
          {found && project && customerId !== undefined && (
            <Found {...{ ...found, project, customerId, showData, operator }}>
              <RevealForm reveals={reveals} response={response} back={request.originalUrl} />
            </Found>
          )}
        </>
      ),
    });
  };
}

type FoundProps = Awaited<ReturnType<Reads['customer']>> & {
  project: { projectId: number; name: string };
  customerId: string;
  showData: boolean;
  operator: CurrentOperator;
  children: ComponentChildren;
};

function Found({ history, claim, letters, project, customerId, showData, operator, children }: FoundProps) {
  const customer = `customer ${customerId} of ${project.name}`;
  if (!history && letters.length === 0 && customerId.endsWith(MASK))
    return <p class="empty">{`There is no ${customer}. This id is masked. Give the whole one.`}</p>;
  if (!history && !claim && letters.length === 0)
    return <p class="empty">{`There is no ${customer}: nothing was accepted, or it was erased some weeks ago.`}</p>;
  const isErasing = claim !== undefined && !(claim instanceof Error) && claim.erased;
  const erasedAt = history && !history.createdAt ? history.erasedAt : null;
  if (erasedAt && !claim && letters.length === 0)
    return (
      <p class="good">
        {`C${customer.slice(1)} was erased at `}
        <Time at={erasedAt} />: nothing of it is stored.
      </p>
    );
  return (
    <>
      {isErasing && <p class="good">{toSentence(`${customer} is being erased`)}</p>}
      <Facts facts={[['In flight', toInFlight(claim, letters.length > 0)], ...toRow(history)]} />
      {history?.createdAt && <Fields history={history} showData={showData} />}
      {children}
      <LetterTable letters={letters} nameOf={new Map([[project.projectId, project.name]])} showData={showData} />
      {mayChange(operator, 'customers erase') && !isErasing && (
        <Form action={toUrl('/find/erase', { project: project.name, customer: customerId })} operator={operator}>
          <Confirm>{`Erase ${customer}.`}</Confirm>
          <button type="submit">Erase</button>
        </Form>
      )}
    </>
  );
}

function toInFlight(claim: Claim | undefined | Error, hasLetters: boolean) {
  if (claim instanceof Error) return 'unknown: the queue does not answer';
  if (!claim)
    return hasLetters ? 'nothing; the entries below are dead letters' : 'nothing: all accepted entries are stored';
  return (
    <>
      {claim.erased ? 'an erasure of ' : 'an entry of '}
      <Time at={toDate(claim.version)} />
    </>
  );
}

function toRow(history: CustomerHistory | undefined): [string, string | preact.JSX.Element][] {
  if (!history) return [['Stored', 'no']];
  const { createdAt, updatedAt, erasedAt } = history;
  return [
    ['Stored', createdAt ? 'yes' : 'no: erased'],
    ['Created', <Time key="created" at={createdAt} />],
    ['Updated', <Time key="updated" at={updatedAt} />],
    ['Erased', <Time key="erased" at={erasedAt} />],
  ];
}

function Fields({ history, showData }: { history: CustomerHistory; showData: boolean }) {
  return (
    <Table
      caption="Stored fields"
      rows={FIELDS.map((name) => ({ name, field: history.fields[name] }))}
      empty=""
      columns={[
        { title: 'Field', cell: ({ name }) => name },
        { title: 'Value', cell: ({ field }) => (field ? (showData ? field.value : MASK) : '–') },
        { title: 'Received', cell: ({ field }) => <Time at={field?.writtenAt} /> },
      ]}
    />
  );
}

/**
 * POST /find/erase: queues the erasure of a customer, like a partner's DELETE. The customer's id is in the URL, because
 * browsers change line feeds in form fields.
 */
export function changeCustomers(
  { projects, queue, shards }: Pick<Store, 'projects'> & { queue: EntryQueue; shards: number },
  handle: HandleChange,
): Router {
  return Router().post(
    '/find/erase',
    handle('customers erase', async (request) => {
      const [project = '', customerId] = [textOf(request, 'project'), parseId(textOf(request, 'customer') ?? '')];
      assertConfirmed(request);
      const found = await projects.find(project);
      if (!found) throw new FormError('there is no such partner');
      return {
        target: toCustomerTarget(project, customerId),
        back: toUrl('/find', { project, customer: customerId }),
        async run() {
          await eraseCustomer(queue, shards, { projectId: found.projectId, customerId });
          return ''; // the page says how far it is
        },
      };
    }),
  );
}

/** Unlike other fields, an id may begin or end with white space. @throws FormError */
function parseId(given: unknown): string {
  try {
    return parseCustomerId(given);
  } catch (error) {
    throw error instanceof Fault ? new FormError(error.message.replace('path/customerId', 'the customer id')) : error;
  }
}
