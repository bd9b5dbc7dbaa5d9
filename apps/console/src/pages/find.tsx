import { FIELDS } from '@opm/core';
import type { Claim } from '@opm/queue';
import type { CustomerHistory } from '@opm/store';
import type { RequestHandler } from 'express';
import { MASK } from '../mask.js';
import type { Reads } from '../reads.js';
import { LetterTable } from './dead-letters.js';
import { Facts, sendPage, Table, Time, textOf } from './page.js';

/** GET /find: a customer by project and id, with the time of each field, what is in flight and its dead letters. */
export function getFind(
  reads: Pick<Reads, 'findProject' | 'customer'>,
  { showData }: { showData: boolean },
): RequestHandler {
  return async (request, response) => {
    const [projectName, customerId] = [textOf(request, 'project'), textOf(request, 'customer')];
    const project = projectName === undefined ? undefined : await reads.findProject(projectName);
    const found = project && customerId !== undefined ? await reads.customer(project.projectId, customerId) : undefined;
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
          {found && project && (
            <>
              <Facts facts={[['In flight', toInFlight(found.claim)], ...toRow(found.history)]} />
              {found.history?.createdAt && <Fields history={found.history} showData={showData} />}
              <LetterTable letters={found.letters} nameOf={new Map([[project.projectId, project.name]])} />
            </>
          )}
        </>
      ),
    });
  };
}

function toInFlight(claim: Claim | undefined | Error) {
  if (claim instanceof Error) return 'unknown: the queue does not answer';
  if (!claim) return 'nothing: all accepted entries are stored';
  return (
    <>
      {claim.erased ? 'an erasure of ' : 'an entry of '}
      <Time at={new Date(claim.version / 1_000)} />
    </>
  );
}

function toRow(history: CustomerHistory | undefined): [string, string | preact.JSX.Element][] {
  if (!history) return [['Stored', 'no: nothing of this customer is in PostgreSQL']];
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
