import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { findProgram, query } from '@opm/testkit';
import { type ComposeProject, createComposeProject, readCommands as readCommandsOf } from './compose-project.js';

let stack: ComposeProject;
let directory: string;
let guide: string;

/** The blocks of commands below a heading, for this project and folder. */
function readCommands(heading: string): string[] {
  const [, section = ''] = guide.split(`\n## ${heading}\n`);
  const [own = ''] = section.split(/^## /m);
  return [...own.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, commands = '']) =>
    commands.replaceAll('opm_postgres', `${stack.name}_postgres`).replace(/opm-backup$/m, `${stack.name}-backup`),
  );
}
const runIn = (folder: string, commands = '') => stack.run(`cd ${folder}\n${commands}`);
const addCustomer = (id: string) =>
  query(
    stack.databaseUrl,
    'INSERT INTO customers (project_id, customer_id, email, created_at, updated_at) VALUES (1, $1, $1, now(), now())',
    [id],
  );

beforeAll(async () => {
  await findProgram({ title: 'age', names: ['age'], aptPackages: ['age'], otherwise: 'brew install age' });
  guide = await readFile('docs/backup.md', 'utf8');
  directory = await mkdtemp(join(tmpdir(), 'opm-backup-'));
  // The stores are enough, and start sooner.
  stack = await createComposeProject('backup', { COMPOSE_PROFILES: 'stores,backup' });
  await stack.compose('build', 'migrate');
});
afterAll(async () => {
  await stack.drop();
  await rm(directory, { recursive: true });
});

test('as in docs/backup.md: backups are switched on, drilled and copied, and a new machine restores a point in time from the copy', async () => {
  const [switchOn, baseNow, switchOff] = readCommands('Switch it on');
  const [createKeys, encryptSecrets] = readCommands('A copy on another host');
  const [isHealthy] = readCommands('Watch it');
  const [decrypt, fill] = readCommands('On a new machine');
  const [rehearse = '', restore = ''] = readCommands('Restore');
  const [restored] = readCommands('After a restore');
  const [drill] = readCommands('Restore drill');

  await stack.docker('volume', 'create', `${stack.name}-backup`); // again below, which changes nothing
  await stack.compose('up', '--wait', 'postgres', 'redis');
  await stack.compose('up', 'roles', 'migrate', 'grants');
  await stack.run(switchOn ?? '');
  await addCustomer('kept');
  const [{ time = '' } = {}] = await query<{ time: string }>(
    stack.databaseUrl,
    `SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS time`,
  );
  await addCustomer('mistake');
  const [changePassword = ''] = (await readCommandsOf('docs/secrets.md', 'Change a secret of Docker Compose')).filter(
    (commands) => commands.includes('backup-password'),
  );
  await stack.run(changePassword);
  await stack.run(`${drill}\n${isHealthy}\n${rehearse.replace('2026-12-01T14:30:00Z', time)}\n${baseNow}`);

  await runIn(directory, createKeys);
  const volume = await stack.docker('volume', 'inspect', '--format', '{{.Mountpoint}}', `${stack.name}-backup`);
  await stack.run(`deploy/backup/offsite.sh ${volume} ${directory}/copy ${directory}/opm-backup.pub`);
  await stack.run(
    (encryptSecrets ?? '')
      .replace('/opt/opm', '.')
      .replace('/etc/opm', directory)
      .replace('/var/lib/opm-offsite', `${directory}/copy`),
  );
  await stack.compose('--profile', '*', 'down', '--volumes');
  await stack.docker('volume', 'rm', `${stack.name}-backup`);

  await runIn(`${directory}/copy`, `cp ../opm-backup.key .\n${decrypt}`);
  await runIn(`${directory}/copy`, `tar -tf secrets.tar | grep -q '^secrets/postgres-password$'`);
  await stack.run((fill ?? '').replace('COPY', `${directory}/copy`));
  await stack.run(restore.replace('2026-12-01T14:30:00Z', time));
  expect(await query(stack.databaseUrl, 'SELECT customer_id FROM customers')).toEqual([{ customer_id: 'kept' }]);
  await stack.run(restored ?? '');
  await stack.compose('up', '--wait'); // the end of the guide: a new series has its base backup
  await stack.run(`${drill}\n${switchOff}`);
});
